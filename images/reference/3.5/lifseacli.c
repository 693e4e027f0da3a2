/* lifseacli for a host without a shell: controls the operations container, which is off by default. Every call is logged.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef PROGRAM
#define PROGRAM "/usr/bin/ctr"
#define LOG "/var/log/lifsea/operations.log"
#endif
#define CTR PROGRAM, "--namespace", "lifsea"
#define IMAGE "lifsea.local/operations:1"
#define NAME "operations"
#define FOR_EVER "2147483647"
#define TRIES 50

/* Runs a program to its end; its output replaces what is in `output`, or goes where that of this program goes. */
static int run(char *const command[], char *output, size_t size)
{
	int ends[2] = {-1, -1}, status = -1;
	size_t length = 0;
	ssize_t got;
	pid_t child;

	if (output && pipe2(ends, O_CLOEXEC) != 0)
		return -1;
	child = fork();
	if (child == 0) {
		if (output)
			dup2(ends[1], STDOUT_FILENO);
		execv(command[0], command);
		_exit(127);
	}
	if (output) {
		close(ends[1]);
		while (length < size - 1 && (got = read(ends[0], output + length, size - 1 - length)) > 0)
			length += got;
		output[length] = '\0';
		close(ends[0]);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Whether a line of `text` begins with the container's name, as a word, and has that word behind it. */
static int has_line(char *text, const char *word)
{
	char *line, *rest = NULL;

	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		size_t length = strcspn(line, " \t");
		if (length == strlen(NAME) && strncmp(line, NAME, length) == 0 && strstr(line + length, word))
			return 1;
	}
	return 0;
}

static int is_running(void)
{
	char *const list[] = {CTR, "tasks", "list", NULL};
	char text[65536];

	return run(list, text, sizeof text) == 0 && has_line(text, "RUNNING");
}

static int kill_task(char *signal)
{
	char *const command[] = {CTR, "tasks", "kill", "--signal", signal, NAME, NULL};

	return run(command, NULL, 0);
}

static int stop(void)
{
	const struct timespec a_while = {0, 100000000};
	int left;

	if (!is_running())
		return 0;
	kill_task("SIGTERM");
	for (left = TRIES; left > 0; left--) {
		if (!is_running())
			return 0;
		nanosleep(&a_while, NULL);
	}
	return kill_task("SIGKILL");
}

static int delete(void)
{
	char *const list[] = {CTR, "containers", "list", "--quiet", NULL};
	char *const task[] = {CTR, "tasks", "delete", "--force", NAME, NULL};
	char *const container[] = {CTR, "containers", "delete", NAME, NULL};
	char text[65536];

	stop();
	if (run(list, text, sizeof text) != 0 || !has_line(text, ""))
		return 0;
	run(task, text, sizeof text);
	return run(container, NULL, 0);
}

/* The host's processes and network, and its files read-only, for an operator to inspect. */
static int start(void)
{
	char *const command[] = {CTR, "run", "--detach", "--null-io", "--privileged", "--net-host", "--with-ns",
		"pid:/proc/1/ns/pid", "--mount", "type=bind,src=/,dst=/host,options=rbind:ro", IMAGE, NAME,
		"/bin/sleep", FOR_EVER, NULL};

	if (is_running())
		return 0;
	delete();
	return run(command, NULL, 0);
}

static void record(int count, char **arguments)
{
	char moment[32];
	time_t now = time(NULL);
	const char *caller = getenv("SUDO_UID");
	FILE *log = fopen(LOG, "ae");
	int number;

	if (!log) {
		fprintf(stderr, "lifseacli: %s: %s\n", LOG, strerror(errno));
		exit(1);
	}
	strftime(moment, sizeof moment, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
	if (caller)
		fprintf(log, "%s uid=%s lifseacli", moment, caller);
	else
		fprintf(log, "%s uid=%d lifseacli", moment, (int)getuid());
	for (number = 1; number < count; number++)
		fprintf(log, " %s", arguments[number]);
	fputc('\n', log);
	if (fclose(log) != 0)
		exit(1);
}

int main(int count, char **arguments)
{
	const char *verb = count == 3 && strcmp(arguments[1], "container") == 0 ? arguments[2] : "";

	record(count, arguments);
	if (strcmp(verb, "start") == 0)
		return start();
	if (strcmp(verb, "stop") == 0)
		return stop();
	if (strcmp(verb, "restart") == 0)
		return stop() || start();
	if (strcmp(verb, "rm") == 0)
		return delete();
	if (strcmp(verb, "status") == 0)
		return puts(is_running() ? "running" : "stopped") == EOF;
	fprintf(stderr, "usage: lifseacli container start|stop|restart|rm|status\n");
	return 2;
}
