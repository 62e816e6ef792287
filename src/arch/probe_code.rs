//! Machine code of the probes, the tiny programs that the kernel executes to verify a handler. Every probe calls
//! `read(0, …, 1)` and then `exit(argv[0][0])`.
//!
//! A probe waits in `read` until its standard input has a byte or ends. During this time qus can inspect the running
//! process. The probe ignores the result of `read` and the byte that was read. This byte overwrites `argc`, which the
//! probe does not use.
//!
//! The exit status shows which `argv[0]` the probe received. qus starts a probe with `*` as `argv[0]`, so the status is
//! 42 (`*`) if the kernel preserved `argv[0]`. If the handler has no flag `P`, binfmt_misc replaces `argv[0]` by the
//! path of the file, and the status is 47 (`/`).
//!
//! When a process starts, its stack pointer points to `argc`, one machine word. `argv[0]` follows at offset 4 in 32-bit
//! programs (also in MIPS programs of the ABIs o32 and n32), and at offset 8 in 64-bit programs. Two families of
//! architectures differ:
//!
//! * SPARC has a save area for 16 registers below `argc`, and in 64-bit programs the stack pointer is 2047 too low. So
//!   `argc` is at `%sp + 64`, or at `%sp + 2047 + 128`.
//! * On PA-RISC the stack grows upwards, away from `argc`. The kernel passes `argv` in `r24` and `argc` in `r25`. The
//!   byte that was read is stored above the stack pointer.
//!
//! The system call numbers come from the kernel's `unistd.h` for each architecture. `read` and `exit` are 3 and 1 on
//! old ports, 63 and 93 with Linux's generic table (AArch64, Hexagon, LoongArch, Nios II, OpenRISC, RISC-V), 0 and 60
//! on `x86_64`, 12 and 118 on Xtensa. On MIPS they are 4003 and 4001 (o32), 5000 and 5058 (n64), 6000 and 6058 (n32).
//! An exit status has eight bits, so a probe need not clear the bits above the byte that it loads. No instruction
//! refers to its own address or to data, so a probe runs at any address.
//!
//! Instructions have the byte order of data, except on ARM (BE8) and AArch64, where instructions are always
//! little-endian.
//!
//! The test `every_probe_waits_for_its_starter` executes every probe through binfmt_misc.

/// The instructions of one architecture's probe.
#[derive(Debug)]
pub struct ProbeCode {
    /// Name of the architecture: its QEMU target.
    pub arch: &'static str,
    /// `e_flags` of the probe's ELF header.
    pub e_flags: u32,
    /// The position-independent instructions, as bytes in the order in which memory contains them.
    pub code: &'static [u8],
}

/// Machine code of all probes, sorted by the name of the architecture.
#[rustfmt::skip]
pub(super) static PROBE_CODE: &[ProbeCode] = &[
    ProbeCode {
        arch: "aarch64",
        e_flags: 0,
        code: &[
            0x00, 0x00, 0x80, 0xd2, // mov x0, #0        standard input
            0xe1, 0x03, 0x00, 0x91, // mov x1, sp        into argc, at the stack pointer
            0x22, 0x00, 0x80, 0xd2, // mov x2, #1        one byte
            0xe8, 0x07, 0x80, 0xd2, // mov x8, #63       read
            0x01, 0x00, 0x00, 0xd4, // svc #0
            0xe0, 0x07, 0x40, 0xf9, // ldr x0, [sp, #8]  argv[0]
            0x00, 0x00, 0x40, 0x39, // ldrb w0, [x0]     its first byte
            0xa8, 0x0b, 0x80, 0xd2, // mov x8, #93       exit
            0x01, 0x00, 0x00, 0xd4, // svc #0
        ],
    },
    ProbeCode {
        arch: "aarch64_be",
        e_flags: 0,
        code: &[
            0x00, 0x00, 0x80, 0xd2, // mov x0, #0        standard input
            0xe1, 0x03, 0x00, 0x91, // mov x1, sp        into argc, at the stack pointer
            0x22, 0x00, 0x80, 0xd2, // mov x2, #1        one byte
            0xe8, 0x07, 0x80, 0xd2, // mov x8, #63       read
            0x01, 0x00, 0x00, 0xd4, // svc #0
            0xe0, 0x07, 0x40, 0xf9, // ldr x0, [sp, #8]  argv[0]
            0x00, 0x00, 0x40, 0x39, // ldrb w0, [x0]     its first byte
            0xa8, 0x0b, 0x80, 0xd2, // mov x8, #93       exit
            0x01, 0x00, 0x00, 0xd4, // svc #0
        ],
    },
    ProbeCode {
        arch: "alpha",
        e_flags: 0,
        code: &[
            0x00, 0x00, 0x1f, 0x22, // lda $16, 0($31)   standard input
            0x11, 0x04, 0xfe, 0x47, // mov $30, $17      into argc, at the stack pointer
            0x01, 0x00, 0x5f, 0x22, // lda $18, 1($31)   one byte
            0x03, 0x00, 0x1f, 0x20, // lda $0, 3($31)    read
            0x83, 0x00, 0x00, 0x00, // callsys
            0x08, 0x00, 0x1e, 0xa6, // ldq $16, 8($30)   argv[0]
            0x00, 0x00, 0x10, 0x2a, // ldbu $16, 0($16)  its first byte
            0x01, 0x00, 0x1f, 0x20, // lda $0, 1($31)    exit
            0x83, 0x00, 0x00, 0x00, // callsys
        ],
    },
    ProbeCode {
        arch: "arm",
        e_flags: 0x0500_0000,
        code: &[
            0x00, 0x00, 0xa0, 0xe3, // mov r0, #0        standard input
            0x0d, 0x10, 0xa0, 0xe1, // mov r1, sp        into argc, at the stack pointer
            0x01, 0x20, 0xa0, 0xe3, // mov r2, #1        one byte
            0x03, 0x70, 0xa0, 0xe3, // mov r7, #3        read
            0x00, 0x00, 0x00, 0xef, // svc #0
            0x04, 0x00, 0x9d, 0xe5, // ldr r0, [sp, #4]  argv[0]
            0x00, 0x00, 0xd0, 0xe5, // ldrb r0, [r0]     its first byte
            0x01, 0x70, 0xa0, 0xe3, // mov r7, #1        exit
            0x00, 0x00, 0x00, 0xef, // svc #0
        ],
    },
    ProbeCode {
        arch: "armeb",
        e_flags: 0x0580_0000,
        code: &[
            0x00, 0x00, 0xa0, 0xe3, // mov r0, #0        standard input
            0x0d, 0x10, 0xa0, 0xe1, // mov r1, sp        into argc, at the stack pointer
            0x01, 0x20, 0xa0, 0xe3, // mov r2, #1        one byte
            0x03, 0x70, 0xa0, 0xe3, // mov r7, #3        read
            0x00, 0x00, 0x00, 0xef, // svc #0
            0x04, 0x00, 0x9d, 0xe5, // ldr r0, [sp, #4]  argv[0]
            0x00, 0x00, 0xd0, 0xe5, // ldrb r0, [r0]     its first byte
            0x01, 0x70, 0xa0, 0xe3, // mov r7, #1        exit
            0x00, 0x00, 0x00, 0xef, // svc #0
        ],
    },
    ProbeCode {
        arch: "cris",
        e_flags: 0x4,
        code: &[
            0x40, 0xa2, // moveq 0, $r10        standard input
            0x6e, 0xb6, // move.d $sp, $r11     into argc, at the stack pointer
            0x41, 0xc2, // moveq 1, $r12        one byte
            0x43, 0x92, // moveq 3, $r9         read
            0x3d, 0xe9, // break 13
            0x6e, 0xae, // move.d [$sp+], $r10  argc, not used; sp moves on
            0x6e, 0xaa, // move.d [$sp], $r10   argv[0]
            0x4a, 0xa8, // movu.b [$r10], $r10  its first byte
            0x41, 0x92, // moveq 1, $r9         exit
            0x3d, 0xe9, // break 13
        ],
    },
    ProbeCode {
        arch: "hexagon",
        e_flags: 0x60,
        code: &[
            0x00, 0x40, 0x00, 0x78, 0x01, 0xc0, 0x7d, 0x70, // { r0 = #0; r1 = r29 }            standard input; into argc, at the stack pointer
            0xf6, 0x2b, 0x12, 0x28,                         // { r2 = #1; r6 = #63 }            one byte; read
            0x04, 0xc0, 0x00, 0x54,                         // { trap0(#1) }
            0xa6, 0x4b, 0x00, 0x78, 0x20, 0xc0, 0x9d, 0x91, // { r6 = #93; r0 = memw(r29+#4) }  exit; argv[0]
            0x00, 0xc0, 0x20, 0x91,                         // { r0 = memub(r0+#0) }            its first byte
            0x04, 0xc0, 0x00, 0x54,                         // { trap0(#1) }
        ],
    },
    ProbeCode {
        arch: "hppa",
        e_flags: 0x210,
        code: &[
            0x08, 0x18, 0x02, 0x43, // copy %r24, %r3                    argv, which arrives in r24
            0x34, 0x1a, 0x00, 0x00, // ldi 0, %r26                       standard input
            0x37, 0xd9, 0x00, 0x80, // ldo 64(%r30), %r25                into free space above the stack pointer
            0x34, 0x18, 0x00, 0x02, // ldi 1, %r24                       one byte
            0xe4, 0x00, 0x82, 0x00, // be,l 0x100(%sr2,%r0), %sr0, %r31  gateway page, the system call entry
            0x34, 0x14, 0x00, 0x06, // ldi 3, %r20                       delay slot: read
            0x0c, 0x60, 0x10, 0x9a, // ldw 0(%r3), %r26                  argv[0]
            0x0f, 0x40, 0x10, 0x1a, // ldb 0(%r26), %r26                 its first byte
            0xe4, 0x00, 0x82, 0x00, // be,l 0x100(%sr2,%r0), %sr0, %r31  the same entry
            0x34, 0x14, 0x00, 0x02, // ldi 1, %r20                       delay slot: exit
        ],
    },
    ProbeCode {
        arch: "i386",
        e_flags: 0,
        code: &[
            0x6a, 0x03,       // pushl $3             3 = read
            0x58,             // popl %eax            eax = 3
            0x31, 0xdb,       // xorl %ebx, %ebx      standard input
            0x89, 0xe1,       // movl %esp, %ecx      into argc, at the stack pointer
            0x6a, 0x01,       // pushl $1             1
            0x5a,             // popl %edx            edx = 1: one byte
            0xcd, 0x80,       // int $0x80
            0x58,             // popl %eax            argc, not used
            0x5b,             // popl %ebx            argv[0]
            0x0f, 0xb6, 0x1b, // movzbl (%ebx), %ebx  its first byte
            0x6a, 0x01,       // pushl $1             1 = exit
            0x58,             // popl %eax            eax = 1
            0xcd, 0x80,       // int $0x80
        ],
    },
    ProbeCode {
        arch: "loongarch64",
        e_flags: 0,
        code: &[
            0x04, 0x00, 0x80, 0x03, // ori $a0, $zero, 0   standard input
            0x65, 0x00, 0x80, 0x03, // ori $a1, $sp, 0     into argc, at the stack pointer
            0x06, 0x04, 0x80, 0x03, // ori $a2, $zero, 1   one byte
            0x0b, 0xfc, 0x80, 0x03, // ori $a7, $zero, 63  read
            0x00, 0x00, 0x2b, 0x00, // syscall 0
            0x64, 0x20, 0xc0, 0x28, // ld.d $a0, $sp, 8    argv[0]
            0x84, 0x00, 0x00, 0x2a, // ld.bu $a0, $a0, 0   its first byte
            0x0b, 0x74, 0x81, 0x03, // ori $a7, $zero, 93  exit
            0x00, 0x00, 0x2b, 0x00, // syscall 0
        ],
    },
    ProbeCode {
        arch: "m68k",
        e_flags: 0,
        code: &[
            0x72, 0x00, // moveq #0, %d1     standard input
            0x24, 0x0f, // movel %sp, %d2    into argc, at the stack pointer
            0x76, 0x01, // moveq #1, %d3     one byte
            0x70, 0x03, // moveq #3, %d0     read
            0x4e, 0x40, // trap #0
            0x20, 0x1f, // movel %sp@+, %d0  argc, not used; sp moves on
            0x20, 0x57, // moveal %sp@, %a0  argv[0]
            0x12, 0x10, // moveb %a0@, %d1   its first byte, into the low byte of d1
            0x70, 0x01, // moveq #1, %d0     exit
            0x4e, 0x40, // trap #0
        ],
    },
    ProbeCode {
        arch: "microblaze",
        e_flags: 0,
        code: &[
            0x30, 0xa0, 0x00, 0x00, // addik r5, r0, 0   standard input
            0x30, 0xc1, 0x00, 0x00, // addik r6, r1, 0   into argc, at the stack pointer
            0x30, 0xe0, 0x00, 0x01, // addik r7, r0, 1   one byte
            0x31, 0x80, 0x00, 0x03, // addik r12, r0, 3  read
            0xb9, 0xcc, 0x00, 0x08, // brki r14, 8
            0xe8, 0xa1, 0x00, 0x04, // lwi r5, r1, 4     argv[0]
            0xe0, 0xa5, 0x00, 0x00, // lbui r5, r5, 0    its first byte
            0x31, 0x80, 0x00, 0x01, // addik r12, r0, 1  exit
            0xb9, 0xcc, 0x00, 0x08, // brki r14, 8
        ],
    },
    ProbeCode {
        arch: "microblazeel",
        e_flags: 0,
        code: &[
            0x00, 0x00, 0xa0, 0x30, // addik r5, r0, 0   standard input
            0x00, 0x00, 0xc1, 0x30, // addik r6, r1, 0   into argc, at the stack pointer
            0x01, 0x00, 0xe0, 0x30, // addik r7, r0, 1   one byte
            0x03, 0x00, 0x80, 0x31, // addik r12, r0, 3  read
            0x08, 0x00, 0xcc, 0xb9, // brki r14, 8
            0x04, 0x00, 0xa1, 0xe8, // lwi r5, r1, 4     argv[0]
            0x00, 0x00, 0xa5, 0xe0, // lbui r5, r5, 0    its first byte
            0x01, 0x00, 0x80, 0x31, // addik r12, r0, 1  exit
            0x08, 0x00, 0xcc, 0xb9, // brki r14, 8
        ],
    },
    ProbeCode {
        arch: "mips",
        e_flags: 0x7000_1007,
        code: &[
            0x24, 0x04, 0x00, 0x00, // li $a0, 0        standard input
            0x03, 0xa0, 0x28, 0x25, // move $a1, $sp    into argc, at the stack pointer
            0x24, 0x06, 0x00, 0x01, // li $a2, 1        one byte
            0x24, 0x02, 0x0f, 0xa3, // li $v0, 4003     read
            0x00, 0x00, 0x00, 0x0c, // syscall
            0x8f, 0xa4, 0x00, 0x04, // lw $a0, 4($sp)   argv[0]
            0x90, 0x84, 0x00, 0x00, // lbu $a0, 0($a0)  its first byte
            0x24, 0x02, 0x0f, 0xa1, // li $v0, 4001     exit
            0x00, 0x00, 0x00, 0x0c, // syscall
        ],
    },
    ProbeCode {
        arch: "mips64",
        e_flags: 0x8000_0007,
        code: &[
            0x24, 0x04, 0x00, 0x00, // li $a0, 0        standard input
            0x03, 0xa0, 0x28, 0x25, // move $a1, $sp    into argc, at the stack pointer
            0x24, 0x06, 0x00, 0x01, // li $a2, 1        one byte
            0x24, 0x02, 0x13, 0x88, // li $v0, 5000     read
            0x00, 0x00, 0x00, 0x0c, // syscall
            0xdf, 0xa4, 0x00, 0x08, // ld $a0, 8($sp)   argv[0]
            0x90, 0x84, 0x00, 0x00, // lbu $a0, 0($a0)  its first byte
            0x24, 0x02, 0x13, 0xc2, // li $v0, 5058     exit
            0x00, 0x00, 0x00, 0x0c, // syscall
        ],
    },
    ProbeCode {
        arch: "mips64el",
        e_flags: 0x8000_0007,
        code: &[
            0x00, 0x00, 0x04, 0x24, // li $a0, 0        standard input
            0x25, 0x28, 0xa0, 0x03, // move $a1, $sp    into argc, at the stack pointer
            0x01, 0x00, 0x06, 0x24, // li $a2, 1        one byte
            0x88, 0x13, 0x02, 0x24, // li $v0, 5000     read
            0x0c, 0x00, 0x00, 0x00, // syscall
            0x08, 0x00, 0xa4, 0xdf, // ld $a0, 8($sp)   argv[0]
            0x00, 0x00, 0x84, 0x90, // lbu $a0, 0($a0)  its first byte
            0xc2, 0x13, 0x02, 0x24, // li $v0, 5058     exit
            0x0c, 0x00, 0x00, 0x00, // syscall
        ],
    },
    ProbeCode {
        arch: "mipsel",
        e_flags: 0x7000_1007,
        code: &[
            0x00, 0x00, 0x04, 0x24, // li $a0, 0        standard input
            0x25, 0x28, 0xa0, 0x03, // move $a1, $sp    into argc, at the stack pointer
            0x01, 0x00, 0x06, 0x24, // li $a2, 1        one byte
            0xa3, 0x0f, 0x02, 0x24, // li $v0, 4003     read
            0x0c, 0x00, 0x00, 0x00, // syscall
            0x04, 0x00, 0xa4, 0x8f, // lw $a0, 4($sp)   argv[0]
            0x00, 0x00, 0x84, 0x90, // lbu $a0, 0($a0)  its first byte
            0xa1, 0x0f, 0x02, 0x24, // li $v0, 4001     exit
            0x0c, 0x00, 0x00, 0x00, // syscall
        ],
    },
    ProbeCode {
        arch: "mipsn32",
        e_flags: 0x8000_0027,
        code: &[
            0x24, 0x04, 0x00, 0x00, // li $a0, 0        standard input
            0x03, 0xa0, 0x28, 0x25, // move $a1, $sp    into argc, at the stack pointer
            0x24, 0x06, 0x00, 0x01, // li $a2, 1        one byte
            0x24, 0x02, 0x17, 0x70, // li $v0, 6000     read
            0x00, 0x00, 0x00, 0x0c, // syscall
            0x8f, 0xa4, 0x00, 0x04, // lw $a0, 4($sp)   argv[0]
            0x90, 0x84, 0x00, 0x00, // lbu $a0, 0($a0)  its first byte
            0x24, 0x02, 0x17, 0xaa, // li $v0, 6058     exit
            0x00, 0x00, 0x00, 0x0c, // syscall
        ],
    },
    ProbeCode {
        arch: "mipsn32el",
        e_flags: 0x8000_0027,
        code: &[
            0x00, 0x00, 0x04, 0x24, // li $a0, 0        standard input
            0x25, 0x28, 0xa0, 0x03, // move $a1, $sp    into argc, at the stack pointer
            0x01, 0x00, 0x06, 0x24, // li $a2, 1        one byte
            0x70, 0x17, 0x02, 0x24, // li $v0, 6000     read
            0x0c, 0x00, 0x00, 0x00, // syscall
            0x04, 0x00, 0xa4, 0x8f, // lw $a0, 4($sp)   argv[0]
            0x00, 0x00, 0x84, 0x90, // lbu $a0, 0($a0)  its first byte
            0xaa, 0x17, 0x02, 0x24, // li $v0, 6058     exit
            0x0c, 0x00, 0x00, 0x00, // syscall
        ],
    },
    ProbeCode {
        arch: "nios2",
        e_flags: 0,
        code: &[
            0x04, 0x00, 0x00, 0x01, // movi r4, 0      standard input
            0x04, 0x00, 0x40, 0xd9, // mov r5, sp      into argc, at the stack pointer
            0x44, 0x00, 0x80, 0x01, // movi r6, 1      one byte
            0xc4, 0x0f, 0x80, 0x00, // movi r2, 63     read
            0x3a, 0x68, 0x3b, 0x00, // trap 0
            0x17, 0x01, 0x00, 0xd9, // ldw r4, 4(sp)   argv[0]
            0x03, 0x00, 0x00, 0x21, // ldbu r4, 0(r4)  its first byte
            0x44, 0x17, 0x80, 0x00, // movi r2, 93     exit
            0x3a, 0x68, 0x3b, 0x00, // trap 0
        ],
    },
    ProbeCode {
        arch: "or1k",
        e_flags: 0,
        code: &[
            0xa8, 0x60, 0x00, 0x00, // l.ori r3, r0, 0    standard input
            0xa8, 0x81, 0x00, 0x00, // l.ori r4, r1, 0    into argc, at the stack pointer
            0xa8, 0xa0, 0x00, 0x01, // l.ori r5, r0, 1    one byte
            0xa9, 0x60, 0x00, 0x3f, // l.ori r11, r0, 63  read
            0x20, 0x00, 0x00, 0x01, // l.sys 1
            0x84, 0x61, 0x00, 0x04, // l.lwz r3, 4(r1)    argv[0]
            0x8c, 0x63, 0x00, 0x00, // l.lbz r3, 0(r3)    its first byte
            0xa9, 0x60, 0x00, 0x5d, // l.ori r11, r0, 93  exit
            0x20, 0x00, 0x00, 0x01, // l.sys 1
        ],
    },
    ProbeCode {
        arch: "ppc",
        e_flags: 0,
        code: &[
            0x38, 0x60, 0x00, 0x00, // li 3, 0      standard input
            0x7c, 0x24, 0x0b, 0x78, // mr 4, 1      into argc, at the stack pointer
            0x38, 0xa0, 0x00, 0x01, // li 5, 1      one byte
            0x38, 0x00, 0x00, 0x03, // li 0, 3      read
            0x44, 0x00, 0x00, 0x02, // sc
            0x80, 0x61, 0x00, 0x04, // lwz 3, 4(1)  argv[0]
            0x88, 0x63, 0x00, 0x00, // lbz 3, 0(3)  its first byte
            0x38, 0x00, 0x00, 0x01, // li 0, 1      exit
            0x44, 0x00, 0x00, 0x02, // sc
        ],
    },
    ProbeCode {
        arch: "ppc64",
        e_flags: 0x2,
        code: &[
            0x38, 0x60, 0x00, 0x00, // li 3, 0      standard input
            0x7c, 0x24, 0x0b, 0x78, // mr 4, 1      into argc, at the stack pointer
            0x38, 0xa0, 0x00, 0x01, // li 5, 1      one byte
            0x38, 0x00, 0x00, 0x03, // li 0, 3      read
            0x44, 0x00, 0x00, 0x02, // sc
            0xe8, 0x61, 0x00, 0x08, // ld 3, 8(1)   argv[0]
            0x88, 0x63, 0x00, 0x00, // lbz 3, 0(3)  its first byte
            0x38, 0x00, 0x00, 0x01, // li 0, 1      exit
            0x44, 0x00, 0x00, 0x02, // sc
        ],
    },
    ProbeCode {
        arch: "ppc64le",
        e_flags: 0x2,
        code: &[
            0x00, 0x00, 0x60, 0x38, // li 3, 0      standard input
            0x78, 0x0b, 0x24, 0x7c, // mr 4, 1      into argc, at the stack pointer
            0x01, 0x00, 0xa0, 0x38, // li 5, 1      one byte
            0x03, 0x00, 0x00, 0x38, // li 0, 3      read
            0x02, 0x00, 0x00, 0x44, // sc
            0x08, 0x00, 0x61, 0xe8, // ld 3, 8(1)   argv[0]
            0x00, 0x00, 0x63, 0x88, // lbz 3, 0(3)  its first byte
            0x01, 0x00, 0x00, 0x38, // li 0, 1      exit
            0x02, 0x00, 0x00, 0x44, // sc
        ],
    },
    ProbeCode {
        arch: "riscv32",
        e_flags: 0,
        code: &[
            0x13, 0x05, 0x00, 0x00, // li a0, 0       standard input
            0x93, 0x05, 0x01, 0x00, // mv a1, sp      into argc, at the stack pointer
            0x13, 0x06, 0x10, 0x00, // li a2, 1       one byte
            0x93, 0x08, 0xf0, 0x03, // li a7, 63      read
            0x73, 0x00, 0x00, 0x00, // ecall
            0x03, 0x25, 0x41, 0x00, // lw a0, 4(sp)   argv[0]
            0x03, 0x45, 0x05, 0x00, // lbu a0, 0(a0)  its first byte
            0x93, 0x08, 0xd0, 0x05, // li a7, 93      exit
            0x73, 0x00, 0x00, 0x00, // ecall
        ],
    },
    ProbeCode {
        arch: "riscv64",
        e_flags: 0,
        code: &[
            0x13, 0x05, 0x00, 0x00, // li a0, 0       standard input
            0x93, 0x05, 0x01, 0x00, // mv a1, sp      into argc, at the stack pointer
            0x13, 0x06, 0x10, 0x00, // li a2, 1       one byte
            0x93, 0x08, 0xf0, 0x03, // li a7, 63      read
            0x73, 0x00, 0x00, 0x00, // ecall
            0x03, 0x35, 0x81, 0x00, // ld a0, 8(sp)   argv[0]
            0x03, 0x45, 0x05, 0x00, // lbu a0, 0(a0)  its first byte
            0x93, 0x08, 0xd0, 0x05, // li a7, 93      exit
            0x73, 0x00, 0x00, 0x00, // ecall
        ],
    },
    ProbeCode {
        arch: "s390x",
        e_flags: 0,
        code: &[
            0xa7, 0x29, 0x00, 0x00,             // lghi %r2, 0       standard input
            0xb9, 0x04, 0x00, 0x3f,             // lgr %r3, %r15     into argc, at the stack pointer
            0xa7, 0x49, 0x00, 0x01,             // lghi %r4, 1       one byte
            0x0a, 0x03,                         // svc 3             read; the number is in the instruction
            0xe3, 0x20, 0xf0, 0x08, 0x00, 0x04, // lg %r2, 8(%r15)   argv[0]
            0xe3, 0x20, 0x20, 0x00, 0x00, 0x90, // llgc %r2, 0(%r2)  its first byte
            0x0a, 0x01,                         // svc 1             exit
        ],
    },
    ProbeCode {
        arch: "sh4",
        e_flags: 0,
        code: &[
            0x00, 0xe4, // mov #0, r4          standard input
            0xf3, 0x65, // mov r15, r5         into argc, at the stack pointer
            0x01, 0xe6, // mov #1, r6          one byte
            0x03, 0xe3, // mov #3, r3          read
            0x13, 0xc3, // trapa #0x13         three arguments
            0xf1, 0x54, // mov.l @(4,r15), r4  argv[0]
            0x40, 0x64, // mov.b @r4, r4       its first byte, sign-extended
            0x01, 0xe3, // mov #1, r3          exit
            0x11, 0xc3, // trapa #0x11         one argument
        ],
    },
    ProbeCode {
        arch: "sh4eb",
        e_flags: 0,
        code: &[
            0xe4, 0x00, // mov #0, r4          standard input
            0x65, 0xf3, // mov r15, r5         into argc, at the stack pointer
            0xe6, 0x01, // mov #1, r6          one byte
            0xe3, 0x03, // mov #3, r3          read
            0xc3, 0x13, // trapa #0x13         three arguments
            0x54, 0xf1, // mov.l @(4,r15), r4  argv[0]
            0x64, 0x40, // mov.b @r4, r4       its first byte, sign-extended
            0xe3, 0x01, // mov #1, r3          exit
            0xc3, 0x11, // trapa #0x11         one argument
        ],
    },
    ProbeCode {
        arch: "sparc",
        e_flags: 0,
        code: &[
            0x90, 0x10, 0x00, 0x00, // clr %o0           standard input
            0x92, 0x03, 0xa0, 0x40, // add %sp, 64, %o1  into argc
            0x94, 0x10, 0x20, 0x01, // mov 1, %o2        one byte
            0x82, 0x10, 0x20, 0x03, // mov 3, %g1        read
            0x91, 0xd0, 0x20, 0x10, // ta 0x10
            0xd0, 0x03, 0xa0, 0x44, // ld [%sp+68], %o0  argv[0]
            0xd0, 0x0a, 0x00, 0x00, // ldub [%o0], %o0   its first byte
            0x82, 0x10, 0x20, 0x01, // mov 1, %g1        exit
            0x91, 0xd0, 0x20, 0x10, // ta 0x10
        ],
    },
    ProbeCode {
        arch: "sparc32plus",
        e_flags: 0x100,
        code: &[
            0x90, 0x10, 0x00, 0x00, // clr %o0           standard input
            0x92, 0x03, 0xa0, 0x40, // add %sp, 64, %o1  into argc
            0x94, 0x10, 0x20, 0x01, // mov 1, %o2        one byte
            0x82, 0x10, 0x20, 0x03, // mov 3, %g1        read
            0x91, 0xd0, 0x20, 0x10, // ta 0x10
            0xd0, 0x03, 0xa0, 0x44, // ld [%sp+68], %o0  argv[0]
            0xd0, 0x0a, 0x00, 0x00, // ldub [%o0], %o0   its first byte
            0x82, 0x10, 0x20, 0x01, // mov 1, %g1        exit
            0x91, 0xd0, 0x20, 0x10, // ta 0x10
        ],
    },
    ProbeCode {
        arch: "sparc64",
        e_flags: 0,
        code: &[
            0x90, 0x10, 0x00, 0x00, // clr %o0              standard input
            0x92, 0x03, 0xa8, 0x7f, // add %sp, 2175, %o1   into argc: 2175 = bias 2047 + 128
            0x94, 0x10, 0x20, 0x01, // mov 1, %o2           one byte
            0x82, 0x10, 0x20, 0x03, // mov 3, %g1           read
            0x91, 0xd0, 0x20, 0x6d, // ta 0x6d
            0xd0, 0x5b, 0xa8, 0x87, // ldx [%sp+2183], %o0  argv[0]: 2183 = 2175 + 8
            0xd0, 0x0a, 0x00, 0x00, // ldub [%o0], %o0      its first byte
            0x82, 0x10, 0x20, 0x01, // mov 1, %g1           exit
            0x91, 0xd0, 0x20, 0x6d, // ta 0x6d
        ],
    },
    ProbeCode {
        arch: "x86_64",
        e_flags: 0,
        code: &[
            0x31, 0xc0,       // xorl %eax, %eax      read
            0x31, 0xff,       // xorl %edi, %edi      standard input
            0x48, 0x89, 0xe6, // movq %rsp, %rsi      into argc, at the stack pointer
            0x6a, 0x01,       // pushq $1             1
            0x5a,             // popq %rdx            rdx = 1: one byte
            0x0f, 0x05,       // syscall
            0x58,             // popq %rax            argc, not used
            0x5f,             // popq %rdi            argv[0]
            0x0f, 0xb6, 0x3f, // movzbl (%rdi), %edi  its first byte
            0x6a, 0x3c,       // pushq $60            60 = exit
            0x58,             // popq %rax            rax = 60
            0x0f, 0x05,       // syscall
        ],
    },
    ProbeCode {
        arch: "xtensa",
        e_flags: 0,
        code: &[
            0x62, 0xa0, 0x00, // movi a6, 0      standard input
            0x32, 0xc1, 0x00, // addi a3, a1, 0  into argc, at the stack pointer
            0x42, 0xa0, 0x01, // movi a4, 1      one byte
            0x22, 0xa0, 0x0c, // movi a2, 12     read
            0x00, 0x50, 0x00, // syscall
            0x62, 0x21, 0x01, // l32i a6, a1, 4  argv[0]
            0x62, 0x06, 0x00, // l8ui a6, a6, 0  its first byte
            0x22, 0xa0, 0x76, // movi a2, 118    exit
            0x00, 0x50, 0x00, // syscall
        ],
    },
    ProbeCode {
        arch: "xtensaeb",
        e_flags: 0,
        code: &[
            0x26, 0x0a, 0x00, // movi a6, 0      standard input
            0x23, 0x1c, 0x00, // addi a3, a1, 0  into argc, at the stack pointer
            0x24, 0x0a, 0x01, // movi a4, 1      one byte
            0x22, 0x0a, 0x0c, // movi a2, 12     read
            0x00, 0x05, 0x00, // syscall
            0x26, 0x12, 0x01, // l32i a6, a1, 4  argv[0]
            0x26, 0x60, 0x00, // l8ui a6, a6, 0  its first byte
            0x22, 0x0a, 0x76, // movi a2, 118    exit
            0x00, 0x05, 0x00, // syscall
        ],
    },
];
