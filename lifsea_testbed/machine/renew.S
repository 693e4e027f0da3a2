# The program of renewal.py: a whole ELF file that steps the guest's clock, reseeds its random numbers, and writes what
# the kernel said of the clock then, a struct timex (x86-64, Linux).
#   as -o renew.o renew.S && ld --oformat binary -Ttext=0x400000 -o renew.elf renew.o
# renewal.py fills in what is at `ready` and after. Either the step and the seed are among that, or the program says
# first that it is ready, and reads them. Exit status: 0, or the number of what failed:
#   1 to step the clock  2 to take entropy  3 to reseed  4 to write  5 to read
.set BASE, 0x400000
.set SEED, 64
.set TIMEX, 208
.set HEADER, 40                         # of a frame (frames.py), before the answer
.set GIVEN, TIMEX + 8 + SEED
.set SYS_READ, 0
.set SYS_WRITE, 1
.set SYS_OPEN, 2
.set SYS_IOCTL, 16
.set SYS_EXIT, 60
.set SYS_ADJTIMEX, 159
.set STDIN, 0
.set STDOUT, 1
.set O_WRONLY, 1
.set RNDADDENTROPY, 0x40085203
.set RNDRESEEDCRNG, 0x5207
.set ADJ_SETOFFSET, 0x100

.globl _start
.text
header: .byte   0x7f, 'E', 'L', 'F', 2, 1, 1, 0
        .quad   0
        .short  2, 62                   # an executable, for x86-64
        .long   1
        .quad   _start
        .quad   program - BASE
        .quad   0
        .long   0
        .short  program - header, segment - program, 1, 0, 0, 0
program:
        .long   1, 5                    # loaded; read and executed
        .quad   0, BASE, BASE
        .quad   end - BASE, end - BASE
        .quad   0x1000
segment:

_start: subq    $end - frame, %rsp      # the kernel writes its answer there
        movq    %rsp, %rdi
        movl    $frame, %esi
        movl    $end - frame, %ecx
        rep movsb

        movl    $2, %r12d
        movl    $SYS_OPEN, %eax
        movl    $device, %edi
        movl    $O_WRONLY, %esi
        syscall
        testl   %eax, %eax
        js      failed
        movl    %eax, %r13d

        movl    $4, %r12d
        movl    $SYS_WRITE, %eax
        movl    $STDOUT, %edi
        movl    $greeting, %esi
        movl    ready, %edx
        syscall
        cmpl    ready, %eax
        jne     failed

        movl    $5, %r12d
        leaq    HEADER(%rsp), %r14
        movl    given, %r15d
more:   testl   %r15d, %r15d
        jz      told
        movl    $SYS_READ, %eax
        movl    $STDIN, %edi
        movq    %r14, %rsi
        movl    %r15d, %edx
        syscall
        testl   %eax, %eax
        jle     failed
        addq    %rax, %r14
        subl    %eax, %r15d
        jmp     more

told:   movl    $1, %r12d
        leaq    HEADER(%rsp), %rdi
        movl    $SYS_ADJTIMEX, %eax
        syscall
        testl   %eax, %eax
        js      failed

        movl    $2, %r12d
        movl    $SYS_IOCTL, %eax
        movl    %r13d, %edi
        movl    $RNDADDENTROPY, %esi
        leaq    HEADER + TIMEX(%rsp), %rdx
        syscall
        testl   %eax, %eax
        js      failed

        movl    $3, %r12d
        movl    $SYS_IOCTL, %eax
        movl    %r13d, %edi
        movl    $RNDRESEEDCRNG, %esi
        xorl    %edx, %edx
        syscall
        testl   %eax, %eax
        js      failed

        movl    $4, %r12d
        movl    $SYS_WRITE, %eax
        movl    $STDOUT, %edi
        movl    answer, %esi
        addq    %rsp, %rsi
        movl    answered, %edx
        syscall
        cmpl    answered, %eax
        jne     failed
        xorl    %r12d, %r12d

failed: movl    %r12d, %edi
        movl    $SYS_EXIT, %eax
        syscall

device: .asciz  "/dev/urandom"
        .balign 8
ready:  .quad   0                       # how much of the greeting is written
given:  .quad   0                       # how much is read in place of what is at `timex` and after: nothing, or GIVEN
answer: .quad   HEADER                  # from where in the frame the answer is written: 0, or without the header
answered:
        .quad   TIMEX
greeting:
        .fill   HEADER, 1, 0
frame:  .fill   HEADER, 1, 0
timex:  .long   ADJ_SETOFFSET, 0        # struct timex of the kernel, 208 bytes; the time is at 72
        .fill   8, 8, 0
seconds:
        .quad   0
microseconds:
        .quad   0
        .fill   15, 8, 0
entropy:
        .long   SEED * 8, SEED
seed:   .fill   SEED, 1, 0
end:
