# The payload of accelerator.py: from the reset vector to 64-bit mode, then a loop that counts and reports.
#   as -o payload.o payload.S && ld -o payload.elf -Ttext=0 payload.o && objcopy -O binary payload.elf payload.bin
# It runs from ROM at F000:0000, which is also mapped at 0xf0000.
.set PML4, 0x1000
.set PDPT, 0x2000
.set PAGES, 0x3000              # one page of 2 MiB, mapped to itself
.set COUNTER, 0x4000
.set REPORT_PORT, 0xe9
.set TURNS, 65536               # of a loop of four instructions: _REPORT in accelerator.py

.code16
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    $PML4, %di
        movw    $0x1800, %cx
        cld
        rep stosw
        movl    $PDPT + 3, PML4
        movl    $PAGES + 3, PDPT
        movl    $0x83, PAGES
        movl    $PML4, %eax
        movl    %eax, %cr3
        movl    $0x20, %eax             # CR4.PAE
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx       # EFER
        rdmsr
        orl     $0x100, %eax            # EFER.LME
        wrmsr
        lgdtl   %cs:descriptor
        movl    $0x80000011, %eax       # CR0: PG, ET, PE
        movl    %eax, %cr0
        ljmpl   $8, $0xf0000 + long

.code64
long:   movl    $TURNS, %ecx
turn:   addq    %rcx, %rdx
        movq    %rdx, COUNTER
        decl    %ecx
        jnz     turn
        movb    $'.', %al
        outb    %al, $REPORT_PORT
        jmp     long

        .byte   0x90
table:  .quad   0
        .quad   0x00af9b000000ffff      # code, 64 bits
descriptor:
        .word   0x000f
        .long   0xf0000 + table
