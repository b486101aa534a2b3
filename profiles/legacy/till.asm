; till.img: what a BIOS starts, for the worked profile. nasm -f bin till.asm -o till.img
org 0x7c00
bits 16
        xor ax, ax
        mov ds, ax
        mov si, message
        mov dx, 0x3f8           ; the first serial port
next:   lodsb
        test al, al
        jz idle
        out dx, al
        jmp short next
idle:   hlt
        jmp short idle
message db "the old till is open", 13, 10, 0
        times 510 - ($ - $$) db 0
        dw 0xaa55
