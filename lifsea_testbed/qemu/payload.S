    .code16
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw $0x1000, %di
    movw $0x1800, %cx
    cld
    rep stosw
    movl $0x2003, 0x1000
    movl $0x3003, 0x2000
    movl $0x0083, 0x3000
    movl $0x1000, %eax
    movl %eax, %cr3
    movl $0x20, %eax
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    lgdtl %cs:gdt_pointer
    movl $0x80000011, %eax
    movl %eax, %cr0
    ljmpl $0x08, $0xf0000 + long_mode
    .code64
long_mode:
    movl $0x10000, %ecx
1:  addq %rcx, %rdx
    movq %rdx, 0x4000
    decl %ecx
    jnz 1b
    movb $0x2e, %al
    outb %al, $0xe9
    jmp long_mode
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
gdt_pointer:
    .word 15
    .long 0xf0000 + gdt
