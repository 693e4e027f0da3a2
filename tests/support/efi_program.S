# The smallest operating system that UEFI boots: it counts its boots in a variable, prints the number on COM1, and takes
# one-letter commands there: `r` resets, `w` counts once more and prints, any other letter prints the next of a count in
# memory. Called as efi_main(rcx = image handle, rdx = system table), UEFI specification 2.10, 2.3.4.

        .intel_syntax noprefix
        .globl  start
        .text
start:  mov     rbx, [rdx + 0x58]               # runtime services (4.3)
        sub     rsp, 0x38
        call    count
        lea     rsi, up[rip]
        call    print
        mov     r12b, 'a'
next:   cli                                     # no timer of the firmware, whose services allow interrupts again: it
        call    receive                         # would read the letters, and its watchdog would reset the machine
        cmp     al, 'r'
        je      reset
        cmp     al, 'w'
        je      again
        mov     al, r12b
        inc     r12b
        call    send
        jmp     next
again:  call    count
        jmp     next
reset:  mov     al, 0xfe                        # the keyboard controller pulls the reset line
        out     0x64, al
halt:   hlt
        jmp     halt

count:  push    rbp                             # reads the number, adds one, writes and prints it
        mov     rbp, rsp
        sub     rsp, 0x40
        mov     qword ptr [rbp - 8], 1          # the size, and below it the number
        mov     qword ptr [rbp - 16], 0
        lea     rcx, name[rip]
        lea     rdx, vendor[rip]
        xor     r8d, r8d
        lea     r9, [rbp - 8]
        lea     rax, [rbp - 16]
        mov     [rsp + 0x20], rax
        call    [rbx + 72]                      # GetVariable (8.2)
        inc     byte ptr [rbp - 16]
        lea     rcx, name[rip]
        lea     rdx, vendor[rip]
        mov     r8d, 7                          # non-volatile, for boot services and at run time
        mov     r9d, 1
        lea     rax, [rbp - 16]
        mov     [rsp + 0x20], rax
        call    [rbx + 88]                      # SetVariable
        lea     rsi, boot[rip]
        call    print
        mov     al, [rbp - 16]
        add     al, '0'
        call    send
        mov     al, '\n'
        call    send
        leave
        ret

print:  lodsb
        test    al, al
        jz      done
        call    send
        jmp     print
done:   ret

send:   mov     ah, al
        mov     dx, 0x3fd
busy:   in      al, dx
        test    al, 0x20
        jz      busy
        mov     al, ah
        mov     dx, 0x3f8
        out     dx, al
        ret

receive:
        mov     dx, 0x3fd
        in      al, dx
        test    al, 1
        jz      receive
        mov     dx, 0x3f8
        in      al, dx
        ret

name:   .short  'B', 'o', 'o', 't', 's', 0
vendor: .long   0x6c696673
        .short  0x6561, 0x7465
        .byte   0x80, 0x73, 0x74, 0x62, 0x65, 0x64, 0x20, 0x31
boot:   .asciz  "boot "
up:     .asciz  "up and running\n"
