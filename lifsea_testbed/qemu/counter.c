/* A plugin for QEMU's TCG that counts the instructions of the guest, in memory that it shares with the test bed.
 *
 * Each translated block adds its number of instructions to a counter of the CPU that executes it: one counter for
 * kernel space, one for user space and firmware. Instructions whose number depends on the speed of the host are counted
 * a second time: as waiting, the iterations of a loop that polls a clock, a port or another CPU (it returns to the same
 * RDTSC, IN or PAUSE after a few instructions); as interrupts, the instructions between the entry of an interrupt of the
 * local APIC, such as its timer's, and the following IRET. A halted CPU executes nothing; the time during which all CPUs
 * are halted is added up as idle.
 *
 * Also recorded, each with the time of the host's monotonic clock and the counters:
 *   samples    about every 2 ms
 *   marks      a byte written to ttyS0; the entry of the boot sector at 0x7c00
 *   programs   the start of a program, recognised by the first instructions of its start code, with its argv[0], and
 *              argv[1] if that is a path, as for a script; the instructions executed in its address space, identified
 *              by CR3, are added to it at each switch of the address space
 *
 * No Debian package has QEMU's header, so the used part of version 4 of the interface (QEMU 9.2; docs/devel/tcg-plugins
 * and include/qemu/qemu-plugin.h) is declared here. Two arrays of GLib are used, whose first members are public.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct { uint8_t *data; unsigned len; } GByteArray;
typedef struct { char *data; unsigned len; } GArray;
typedef struct { void *score; size_t offset; } qemu_plugin_u64;
typedef struct { void *handle; const char *name; const char *feature; } qemu_plugin_reg_descriptor;
typedef struct {
	const char *target_name;
	struct { int min, cur; } version;
	bool system_emulation;
	struct { int smp_vcpus, max_vcpus; } system;
} qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { ADD_U64 };
enum { NO_REGS, R_REGS };

void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned));
void qemu_plugin_register_vcpu_idle_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned));
void qemu_plugin_register_vcpu_resume_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned));
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(struct qemu_plugin_tb *, int, qemu_plugin_u64, uint64_t);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
void *qemu_plugin_scoreboard_new(size_t);
void *qemu_plugin_scoreboard_find(void *, unsigned);
int qemu_plugin_num_vcpus(void);
GArray *qemu_plugin_get_registers(void);
int qemu_plugin_read_register(void *, GByteArray *);
bool qemu_plugin_read_memory_vaddr(uint64_t, GByteArray *, size_t);
GByteArray *g_byte_array_new(void);
GByteArray *g_byte_array_set_size(GByteArray *, unsigned);

/* The same layout is in instruction_counter.py. */
enum { SAMPLES = 1 << 17, MARKS = 1 << 18, PROGRAMS = 1 << 13, NAME = 128 };
enum { LONGEST_INTERRUPT = 100000, LONGEST_TURN = 256 };
enum { EXIT_GROUP = 231, PROCESSORS = 256, SPACES = 1 << 14, SERIAL_PORT = 0x3f8, BOOT_SECTOR = 0x7c00 };
static const uint64_t INTERVAL_NS = 2000000;
static const uint64_t KERNEL_SPACE = 1ull << 63;

struct counts { uint64_t user, kernel, waiting, interrupts; };
struct mark { uint64_t at; struct counts counts; uint64_t idle, value; };
struct program { uint64_t at; struct counts counts; char name[NAME]; };
static struct shared {
	uint64_t samples, marks, programs, unused;
	struct mark sample[SAMPLES];
	struct mark mark[MARKS];
	struct program program[PROGRAMS];
} *shared;

static void *score;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, idling = PTHREAD_MUTEX_INITIALIZER;
static bool idles[PROCESSORS];
static uint64_t idle, idle_since;
static struct { uint64_t address; unsigned program; } spaces[SPACES];
static struct { bool known; void *rax, *rdx, *rsp, *cr3; GByteArray *buffer; struct counts seen; uint64_t entered, looked_at, looked; } cpu[PROCESSORS];

__attribute__((visibility("default"))) int qemu_plugin_version = 4;

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static struct counts total(void)
{
	struct counts sum = { 0, 0, 0, 0 };
	for (int i = 0, n = qemu_plugin_num_vcpus(); i < n; i++) {
		volatile struct counts *one = qemu_plugin_scoreboard_find(score, i);
		sum.user += one->user;
		sum.kernel += one->kernel;
		sum.waiting += one->waiting;
		sum.interrupts += one->interrupts;
	}
	return sum;
}

/* --- registers and memory of the CPU whose callback runs */

static void learn_registers(unsigned index)
{
	GArray *all = qemu_plugin_get_registers();
	qemu_plugin_reg_descriptor *reg = (void *)all->data;
	for (unsigned i = 0; i < all->len; i++) {
		if (!strcmp(reg[i].name, "rax")) cpu[index].rax = reg[i].handle;
		if (!strcmp(reg[i].name, "rdx")) cpu[index].rdx = reg[i].handle;
		if (!strcmp(reg[i].name, "rsp")) cpu[index].rsp = reg[i].handle;
		if (!strcmp(reg[i].name, "cr3")) cpu[index].cr3 = reg[i].handle;
	}
	cpu[index].buffer = g_byte_array_new();
	cpu[index].known = true;
}

static uint64_t read_register(unsigned index, void *handle)
{
	uint64_t value = 0;
	GByteArray *buffer = g_byte_array_set_size(cpu[index].buffer, 0);
	if (handle && qemu_plugin_read_register(handle, buffer) > 0)
		memcpy(&value, buffer->data, buffer->len < 8 ? buffer->len : 8);
	return value;
}

/* Reads a string of at most `size` bytes, including its end, and returns its length. */
static size_t read_text(unsigned index, uint64_t address, char *text, size_t size)
{
	if (qemu_plugin_read_memory_vaddr(address, cpu[index].buffer, size - 1))
		memcpy(text, cpu[index].buffer->data, size - 1);
	text[size - 1] = 0;
	return strlen(text);
}

static uint64_t read_word(unsigned index, uint64_t address)
{
	uint64_t value = 0;
	if (qemu_plugin_read_memory_vaddr(address, cpu[index].buffer, 8))
		memcpy(&value, cpu[index].buffer->data, 8);
	return value;
}

/* --- halted CPUs */

static uint64_t idle_at(uint64_t at)
{
	return idle + (idle_since && at > idle_since ? at - idle_since : 0);
}

static void note_idle(unsigned index, bool does)
{
	if (index >= PROCESSORS)
		return;
	pthread_mutex_lock(&idling);
	uint64_t at = now();
	bool all = true;
	idles[index] = does;
	for (int i = 0, n = qemu_plugin_num_vcpus(); i < n && i < PROCESSORS; i++)
		all &= idles[i];
	if (!all) {
		idle = idle_at(at);
		idle_since = 0;
	} else if (!idle_since) {
		idle_since = at;
	}
	pthread_mutex_unlock(&idling);
}

static void on_idle(qemu_plugin_id_t id, unsigned index)
{
	note_idle(index, true);
}

static void on_resume(qemu_plugin_id_t id, unsigned index)
{
	note_idle(index, false);
}

/* --- interrupts of the local APIC */

static void on_interrupt(unsigned index, void *unused)
{
	struct counts *have = qemu_plugin_scoreboard_find(score, index);
	if (index < PROCESSORS)
		cpu[index].entered = have->kernel;
}

/* An interrupt that ends by a switch to other code has no IRET of its own: longer spans than any handler are discarded. */
static void on_return(unsigned index, void *unused)
{
	struct counts *have = qemu_plugin_scoreboard_find(score, index);
	if (index >= PROCESSORS || !cpu[index].entered)
		return;
	if (have->kernel - cpu[index].entered < LONGEST_INTERRUPT)
		have->interrupts += have->kernel - cpu[index].entered;
	cpu[index].entered = 0;
}

/* --- loops that wait */

/* Called at each instruction with which such a loop polls. */
static void on_look(unsigned index, void *address)
{
	struct counts *have = qemu_plugin_scoreboard_find(score, index);
	uint64_t executed = have->user + have->kernel;
	if (index >= PROCESSORS)
		return;
	if (cpu[index].looked_at == (uint64_t)address && executed - cpu[index].looked < LONGEST_TURN)
		have->waiting += executed - cpu[index].looked;
	cpu[index].looked_at = (uint64_t)address;
	cpu[index].looked = executed;
}

/* --- marks */

static struct mark stamp(uint64_t value)
{
	pthread_mutex_lock(&idling);
	uint64_t at = now(), waited = idle_at(at);
	pthread_mutex_unlock(&idling);
	return (struct mark){ at, total(), waited, value };
}

static void note_mark(uint64_t value)
{
	struct mark made = stamp(value);
	uint64_t place = __atomic_fetch_add(&shared->marks, 1, __ATOMIC_RELAXED);
	if (place < MARKS)
		shared->mark[place] = made;
}

static void on_out(unsigned index, void *unused)
{
	if (index < PROCESSORS && cpu[index].known && (read_register(index, cpu[index].rdx) & 0xffff) == SERIAL_PORT)
		note_mark(read_register(index, cpu[index].rax) & 0xff);
}

static void on_boot_sector(unsigned index, void *unused)
{
	note_mark(BOOT_SECTOR);
}

/* --- programs */

/* The page tables of one address space: CR3 without the PCID, and without the bit that selects one of the two halves
 * under page table isolation. */
static uint64_t space_of(unsigned index)
{
	return read_register(index, cpu[index].cr3) & 0x000fffffffffe000ull;
}

static unsigned *program_in(uint64_t address)
{
	for (uint64_t i = 0, at = address >> 13; i < SPACES; i++, at++) {
		if (spaces[at % SPACES].address == address || !spaces[at % SPACES].address) {
			spaces[at % SPACES].address = address;
			return &spaces[at % SPACES].program;
		}
	}
	return &spaces[0].program;
}

/* Adds the instructions of this CPU since its last call to the program in that address space. */
static void settle(unsigned index, uint64_t address)
{
	struct counts have = *(struct counts *)qemu_plugin_scoreboard_find(score, index), *seen = &cpu[index].seen;
	struct counts *sum = &shared->program[*program_in(address)].counts;
	sum->user += have.user - seen->user;
	sum->kernel += have.kernel - seen->kernel;
	sum->waiting += have.waiting - seen->waiting;
	sum->interrupts += have.interrupts - seen->interrupts;
	*seen = have;
}

static void on_switch(unsigned index, void *unused)
{
	if (index >= PROCESSORS || !cpu[index].known)
		return;
	uint64_t address = space_of(index);
	pthread_mutex_lock(&lock);
	settle(index, address);
	pthread_mutex_unlock(&lock);
}

/* A program ends: its page tables will soon be used by another one. */
static void on_system_call(unsigned index, void *unused)
{
	if (index >= PROCESSORS || !cpu[index].known || read_register(index, cpu[index].rax) != EXIT_GROUP)
		return;
	uint64_t address = space_of(index);
	pthread_mutex_lock(&lock);
	settle(index, address);
	*program_in(address) = 0;
	pthread_mutex_unlock(&lock);
}

/* A program may start: then the kernel has cleared the registers, argc is at the stack pointer, followed by argv, and
 * the string argv[0] is at most 8 MiB above. */
static void on_start(unsigned index, void *unused)
{
	if (index >= PROCESSORS || !cpu[index].known)
		return;
	if (read_register(index, cpu[index].rax) || read_register(index, cpu[index].rdx))
		return;
	uint64_t address = space_of(index), stack = read_register(index, cpu[index].rsp);
	uint64_t count = read_word(index, stack), name = read_word(index, stack + 8);
	if (stack % 16 || !count || count > 1 << 20 || name <= stack || name > stack + (1 << 23))
		return;
	char names[NAME] = "";
	size_t used = read_text(index, name, names, NAME / 2);
	if (count > 1 && used < NAME / 2 - 1 && read_text(index, read_word(index, stack + 16), names + used + 1, NAME / 2)) {
		if (names[used + 1] == '/')
			names[used] = ' ';
		else
			names[used + 1] = 0;
	}
	pthread_mutex_lock(&lock);
	settle(index, address);
	uint64_t place = shared->programs;
	if (place < PROGRAMS) {
		shared->program[place].at = now();
		memcpy(shared->program[place].name, names, NAME);
		*program_in(address) = place;
		shared->programs = place + 1;
	}
	pthread_mutex_unlock(&lock);
}

/* --- translation */

static bool looks(const uint8_t *code, size_t size)
{
	if (size == 1)
		return code[0] == 0xec || code[0] == 0xed;
	return (code[0] == 0xf3 && code[1] == 0x90) || (code[0] == 0x0f && code[1] == 0x31) || code[0] == 0xe4 ||
		(code[0] == 0x0f && code[1] == 0x01 && code[2] == 0xf9);
}

/* Linux's entry of an interrupt of the local APIC (asm_sysvec_… in arch/x86/entry/entry_64.S): CLAC or a NOP in its
 * place, CLD, a push of -1 in place of an exception's error code, and a call. QEMU ends a block at CLAC. */
static bool enters_interrupt(const uint8_t *code, size_t length)
{
	size_t at = length > 3 && code[0] == 0x0f && (code[1] == 0x01 || code[1] == 0x1f) ? 3 : 0;
	at += length > at && code[at] == 0xfc;
	return length > at + 2 && code[at] == 0x6a && code[at + 1] == 0xff && code[at + 2] == 0xe8;
}

/* The start code of glibc's loader, of its static programs, of Go programs, and of musl. */
static bool starts_program(const uint8_t *code, size_t length)
{
	static const struct { uint8_t size, code[10]; } known[] = {
		{ 4, { 0x48, 0x89, 0xe7, 0xe8 } },
		{ 6, { 0x31, 0xed, 0x49, 0x89, 0xd1, 0x5e } },
		{ 10, { 0x48, 0x8b, 0x3c, 0x24, 0x48, 0x8d, 0x74, 0x24, 0x08, 0xe9 } },
		{ 6, { 0x48, 0x31, 0xed, 0x48, 0x89, 0xe7 } },
	};
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (length >= known[i].size && !memcmp(code, known[i].code, known[i].size))
			return true;
	return false;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	uint64_t address = qemu_plugin_tb_vaddr(tb);
	size_t count = qemu_plugin_tb_n_insns(tb), length = 0, place = 0;
	uint8_t first[24];
	bool in_kernel = address & KERNEL_SPACE;
	for (size_t i = 0; i < count; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint8_t code[16] = { 0 };
		size_t size = qemu_plugin_insn_data(insn, code, sizeof code);
		if (looks(code, size))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_look, NO_REGS, (void *)(address + place));
		if (size == 2 && code[0] == 0x48 && code[1] == 0xcf)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_return, NO_REGS, NULL);
		if (!in_kernel && size == 2 && code[0] == 0x0f && code[1] == 0x05)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_system_call, R_REGS, NULL);
		if (size == 1 && code[0] == 0xee)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_out, R_REGS, NULL);
		if (code[0] == 0x0f && code[1] == 0x22 && (code[2] & 0x38) == 0x18)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_switch, R_REGS, NULL);
		if (place == length && length + size <= sizeof first) {
			memcpy(first + length, code, size);
			length += size;
		}
		place += size;
	}
	if (address == BOOT_SECTOR)
		qemu_plugin_register_vcpu_insn_exec_cb(qemu_plugin_tb_get_insn(tb, 0), on_boot_sector, NO_REGS, NULL);
	size_t skipped = length >= 4 && !memcmp(first, "\xf3\x0f\x1e\xfa", 4) ? 4 : 0;
	if (in_kernel && enters_interrupt(first + skipped, length - skipped))
		qemu_plugin_register_vcpu_insn_exec_cb(qemu_plugin_tb_get_insn(tb, 0), on_interrupt, NO_REGS, NULL);
	if (!in_kernel && starts_program(first + skipped, length - skipped))
		qemu_plugin_register_vcpu_insn_exec_cb(qemu_plugin_tb_get_insn(tb, 0), on_start, R_REGS, NULL);
	size_t member = in_kernel ? offsetof(struct counts, kernel) : offsetof(struct counts, user);
	qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(tb, ADD_U64, (qemu_plugin_u64){ score, member }, count);
}

static void on_processor(qemu_plugin_id_t id, unsigned index)
{
	if (index < PROCESSORS)
		learn_registers(index);
}

static void *sample(void *unused)
{
	struct timespec pause = { 0, INTERVAL_NS };
	while (shared->samples < SAMPLES) {
		shared->sample[shared->samples] = stamp(0);
		__atomic_store_n(&shared->samples, shared->samples + 1, __ATOMIC_RELEASE);
		nanosleep(&pause, NULL);
	}
	return NULL;
}

__attribute__((visibility("default")))
int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	pthread_t thread;
	if (argc != 1 || strncmp(argv[0], "memory=", 7))
		return 1;
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[0] + 7), 0);
	if (shared == MAP_FAILED)
		return 1;
	shared->programs = 1; /* the first entry is for instructions outside any program */
	score = qemu_plugin_scoreboard_new(sizeof(struct counts));
	qemu_plugin_register_vcpu_init_cb(id, on_processor);
	qemu_plugin_register_vcpu_idle_cb(id, on_idle);
	qemu_plugin_register_vcpu_resume_cb(id, on_resume);
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return pthread_create(&thread, NULL, sample, NULL);
}
