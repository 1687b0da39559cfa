// The first instructions: the header that boot loaders look for, relocation, stacks, stage 1 of
// EL2, exceptions, and the way into a guest and back.

.equ STACK_SHIFT, 17                // link.ld: 8 stacks of 128 KiB

.section .head, "ax"
.global _head
_head:
    b       start                   // code0
    .long   0                       // code1
    .quad   0                       // text_offset
    .quad   image_size
    .quad   0xa                     // flags: little endian, 4K pages, anywhere in memory
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

// x0 = device tree. MMU and data cache are off.
start:
    msr     daifset, #0xf
    mov     x19, x0
    mrs     x20, CurrentEL
    lsr     x20, x20, #2

    // R_AARCH64_RELATIVE (1027) is all that the linker leaves.
    adrp    x1, image_start
    add     x1, x1, :lo12:image_start
    adrp    x2, rela_start
    add     x2, x2, :lo12:rela_start
    adrp    x3, rela_end
    add     x3, x3, :lo12:rela_end
1:  cmp     x2, x3
    b.hs    2f
    ldp     x4, x5, [x2], #16
    ldr     x6, [x2], #8
    cmp     w5, #1027
    b.ne    1b
    add     x6, x6, x1
    str     x6, [x1, x4]
    b       1b

2:  adrp    x2, bss_start
    add     x2, x2, :lo12:bss_start
    adrp    x3, image_end
    add     x3, x3, :lo12:image_end
3:  stp     xzr, xzr, [x2], #16
    cmp     x2, x3
    b.lo    3b

    // What was just written went past the data cache: drop what it may have of the image.
    mrs     x4, ctr_el0
    ubfx    x4, x4, #16, #4         // DminLine: words, log2
    mov     x5, #4
    lsl     x5, x5, x4
4:  dc      ivac, x1
    add     x1, x1, x5
    cmp     x1, x3
    b.lo    4b
    dsb     sy
    ic      iallu
    dsb     sy
    isb

    mov     x0, xzr
    bl      set_stack
    mov     x0, x19
    mov     x1, x20
    bl      rust_main               // never returns

// PSCI starts the other CPUs here. x0 = their number.
.global secondary_start
secondary_start:
    msr     daifset, #0xf
    mov     x19, x0
    bl      set_stack
    bl      enable_mmu
    mov     x0, x19
    bl      rust_secondary          // never returns

set_stack:                          // x0 = number of the CPU
    adrp    x1, stacks
    add     x1, x1, :lo12:stacks
    add     x2, x0, #1
    add     x1, x1, x2, lsl #STACK_SHIFT
    mov     sp, x1
    ret

// Turns on stage 1 of EL2, by the table in EL2_LEVEL1: 39 bits of address.
.section .text.boot, "ax"
.global enable_mmu
enable_mmu:
    mov     x1, #1 << 31            // HCR_EL2: EL1 is AArch64; no E2H, whatever was there before
    msr     hcr_el2, x1
    isb
    adrp    x1, EL2_LEVEL1
    add     x1, x1, :lo12:EL2_LEVEL1
    msr     ttbr0_el2, x1
    movz    x2, #0x04ff             // attribute 0: normal, write-back; 1: device, nGnRE
    msr     mair_el2, x2
    mrs     x3, id_aa64mmfr0_el1
    and     x3, x3, #0xf            // the width of physical addresses, 48 bits at most
    mov     x4, #5
    cmp     x3, x4
    csel    x3, x3, x4, ls
    movz    x2, #0x8080, lsl #16    // RES1
    movk    x2, #0x3519             // T0SZ = 25; inner shareable, write-back walks
    orr     x2, x2, x3, lsl #16
    msr     tcr_el2, x2
    isb
    tlbi    alle2
    ic      iallu
    dsb     nsh
    isb
    movz    x2, #0x30c5, lsl #16    // RES1
    movk    x2, #0x1835             // M, C, I, SA
    msr     sctlr_el2, x2
    isb
    ret

// Exceptions. Those from a guest that are synchronous are exits; all others are bugs.
.macro unexpected number
    .balign 128
    mov     x0, #\number
    mrs     x1, esr_el2
    mrs     x2, elr_el2
    mrs     x3, far_el2
    b       rust_exception
.endm

.balign 2048
.global vectors
vectors:
    unexpected 0
    unexpected 1
    unexpected 2
    unexpected 3
    unexpected 4
    unexpected 5
    unexpected 6
    unexpected 7
    .balign 128
    b       guest_exit
    unexpected 9
    unexpected 10
    unexpected 11
    unexpected 12
    unexpected 13
    unexpected 14
    unexpected 15

// enter_guest(context): struct Context of guest.rs. x0-x7 and the program counter are the guest's;
// its programs, below, touch no other register.
.global enter_guest
enter_guest:
    stp     x29, x30, [sp, #-112]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x0, [sp, #96]
    ldr     x8, [x0, #64]
    msr     elr_el2, x8
    mov     x8, #0x3c5              // EL1h, everything masked
    msr     spsr_el2, x8
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x0, x1, [x0]
    eret
    dsb     nsh                     // no speculation past the eret
    isb

guest_exit:
    ldr     x8, [sp, #96]
    stp     x0, x1, [x8]
    stp     x2, x3, [x8, #16]
    stp     x4, x5, [x8, #32]
    stp     x6, x7, [x8, #48]
    mrs     x0, elr_el2
    mrs     x1, esr_el2
    stp     x0, x1, [x8, #64]
    mrs     x0, far_el2
    str     x0, [x8, #80]
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #112
    ret

// The guests: EL1, stage 1 off, so addresses are IPAs.
.section .guest, "ax"

// One store of a byte. x0 = address, w1 = value; x2 = where the page has its name, read into x3.
.global guest_store
guest_store:
    strb    w1, [x0]
    ldr     x3, [x2]
    hvc     #0

// One load. x0 = address; x2 = as above.
.global guest_load
guest_load:
    ldr     x1, [x0]
    ldr     x3, [x2]
    hvc     #0

// One fetch: the page has an `hvc #1` there. x0 = address.
.global guest_fetch
guest_fetch:
    br      x0

// Stores a counter to one address again and again. x0 = address, x1 = the counter,
// x2 = where a word says when to stop.
.global guest_count
guest_count:
    add     x1, x1, #1
    str     x1, [x0]
    ldr     x3, [x2]
    cbz     x3, guest_count
    hvc     #0

// Stores a counter to pages in a random order. x0 = the first address, x1 = mask of the page's
// number, x2 = how many stores, x3 = the random state, x4 = the counter.
.global guest_scatter
guest_scatter:
    eor     x3, x3, x3, lsl #13
    eor     x3, x3, x3, lsr #7
    eor     x3, x3, x3, lsl #17
    and     x5, x1, x3, lsr #11
    // Page p has the address (p >> 2) << 21 | (p & 3) << 12.
    lsr     x6, x5, #2
    and     x5, x5, #3
    lsl     x6, x6, #21
    orr     x6, x6, x5, lsl #12
    add     x4, x4, #1
    str     x4, [x0, x6]
    subs    x2, x2, #1
    b.ne    guest_scatter
    hvc     #0
