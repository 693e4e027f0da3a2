# The program of clock_reseed.py: a whole ELF file (x86-64, Linux) that steps the guest's clock, reseeds the kernel's
# random number generators, and writes the clock after the step, as the kernel's struct timex.
#   as -o clock_reseed.o clock_reseed.S && ld --oformat binary -Ttext=0x400000 -o clock_reseed.elf clock_reseed.o
# clock_reseed.py fills in everything from `greeting_size` on. Either that includes the step and the seed, or the
# program first writes a greeting and then reads them from its standard input. Exit status: 0, or what failed:
#   1 stepping the clock  2 adding entropy  3 reseeding  4 writing  5 reading
.set BASE, 0x400000
.set SEED, 64
.set TIMEX, 208
.set HEADER, 40                         # of a frame of the channel (port_frames.py), before the answer
.set INPUT, TIMEX + 8 + SEED
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

_start: subq    $end - frame, %rsp      # a copy that adjtimex(2) may write to
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
        movl    greeting_size, %edx
        syscall
        cmpl    greeting_size, %eax
        jne     failed

        movl    $5, %r12d
        leaq    HEADER(%rsp), %r14
        movl    input_size, %r15d
more:   testl   %r15d, %r15d
        jz      apply
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

apply:  movl    $1, %r12d
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
        movl    answer_start, %esi
        addq    %rsp, %rsi
        movl    answer_size, %edx
        syscall
        cmpl    answer_size, %eax
        jne     failed
        xorl    %r12d, %r12d

failed: movl    %r12d, %edi
        movl    $SYS_EXIT, %eax
        syscall

device: .asciz  "/dev/urandom"
        .balign 8
greeting_size:                          # the bytes of the greeting; 0: no greeting is written
        .quad   0
input_size:                             # the bytes that are read over `timex` and what follows: 0 or INPUT
        .quad   0
answer_start:                           # the offset in the frame from which the answer is written; HEADER: without it
        .quad   HEADER
answer_size:
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
