//! The formats, bit by bit.

use super::SpteFormat;

/// The two-bit field of x86, bits 53:52: A/D bits on, off, or on with write protection only; MMIO.
const SPECIAL: u64 = 3 << 52;
/// Where x86 has the pfn.
const X86_PFN: u64 = ((1 << 52) - 1) & !0xfff;

impl SpteFormat {
    /// EPT with accessed and dirty bits, Linux 5.10.
    pub const EPT: SpteFormat = SpteFormat {
        name: "ept",
        present_mask: 1,
        translates_mask: 1,
        writable_mask: 1 << 1,
        write_protect_mask: 1 << 1,
        user_mask: 0,
        x_mask: 1 << 2,
        nx_mask: 0,
        accessed_mask: 1 << 8,
        dirty_mask: 1 << 9,
        acc_track_mask: 0b111,
        acc_track_saved_mask: 0b101,
        acc_track_saved_shift: 54,
        acc_track_restore_mask: 0,
        host_writable_mask: 1 << 10,
        mmu_writable_mask: 1 << 11,
        mmu_present_mask: 0,
        ad_mask: SPECIAL,
        ad_disabled: 1 << 52,
        mmio_mask: SPECIAL,
        mmio_value: SPECIAL,
        last_mask: 1 << 7,
        last_value: 1 << 7,
        pfn_mask: X86_PFN,
        caches_permission_faults: false,
    };
    /// EPT without them: accesses are tracked by taking the permissions away.
    pub const EPT_NO_AD: SpteFormat =
        SpteFormat { name: "ept-no-ad", accessed_mask: 0, dirty_mask: 0, ..SpteFormat::EPT };
    /// The legacy layout, shared by nested paging on AMD, Linux 5.10.
    pub const NPT: SpteFormat = SpteFormat {
        name: "npt",
        user_mask: 1 << 2,
        x_mask: 0,
        nx_mask: 1 << 63,
        accessed_mask: 1 << 5,
        dirty_mask: 1 << 6,
        acc_track_mask: 0,
        ..SpteFormat::EPT
    };
    /// The same from 5.13 on: H and M moved, a bit says that KVM maps something, MMIO is marked by
    /// a reserved address bit. Read in 6.1.
    pub const NPT_V6_1: SpteFormat = SpteFormat {
        name: "npt-v6.1",
        host_writable_mask: 1 << 9,
        mmu_writable_mask: 1 << 10,
        mmu_present_mask: 1 << 11,
        mmio_mask: 1 << 51 | 1,
        mmio_value: 1 << 51 | 1,
        ..SpteFormat::NPT
    };
    /// arm64 stage 2, 4 KiB granule, normal write-back memory. Software keeps A: an entry is
    /// tracked by clearing AF and W, and the fault that follows sets AF again. The bits that
    /// hardware leaves to software hold H (55), M (56), "A/D off" (57) and a saved W (58). Linux
    /// for arm64 has no H and M: this is the protocol of x86 on the tables of arm64.
    pub const STAGE2: SpteFormat = SpteFormat {
        name: "stage2",
        // Valid and type, MemAttr, S2AP[0], SH = inner.
        present_mask: 0b11 | 0b1111 << 2 | 1 << 6 | 0b11 << 8 | S2_AF,
        translates_mask: 1 | S2_AF,
        writable_mask: S2AP_W,
        write_protect_mask: S2AP_W,
        user_mask: 0,
        x_mask: 0,
        nx_mask: 1 << 54,
        accessed_mask: 0,
        dirty_mask: 0,
        acc_track_mask: S2_AF | S2AP_W,
        acc_track_saved_mask: 0,
        acc_track_saved_shift: 51,
        acc_track_restore_mask: S2_AF,
        host_writable_mask: 1 << 55,
        mmu_writable_mask: 1 << 56,
        mmu_present_mask: 0,
        ad_mask: 1 << 57,
        ad_disabled: 1 << 57,
        mmio_mask: 0,
        mmio_value: 0,
        last_mask: 0b10,
        last_value: 0,
        pfn_mask: ((1 << 48) - 1) & !0xfff,
        caches_permission_faults: true,
    };
    /// The same where hardware keeps A and D (VTCR_EL2.HA and HD): W is DBM, "may be written", and
    /// D is S2AP\[1\], which the first store sets. Write protection has to clear both.
    pub const STAGE2_HD: SpteFormat = SpteFormat {
        name: "stage2-hd",
        present_mask: SpteFormat::STAGE2.present_mask & !S2_AF,
        translates_mask: 1,
        writable_mask: 1 << 51,
        write_protect_mask: 1 << 51 | S2AP_W,
        accessed_mask: S2_AF,
        dirty_mask: S2AP_W,
        acc_track_mask: 0,
        acc_track_saved_shift: 7,
        acc_track_restore_mask: 0,
        ..SpteFormat::STAGE2
    };
    /// Every format.
    pub const ALL: [SpteFormat; 6] = [
        SpteFormat::EPT,
        SpteFormat::EPT_NO_AD,
        SpteFormat::NPT,
        SpteFormat::NPT_V6_1,
        SpteFormat::STAGE2,
        SpteFormat::STAGE2_HD,
    ];
}

/// The access flag.
const S2_AF: u64 = 1 << 10;
/// S2AP\[1\]: stores are permitted.
const S2AP_W: u64 = 1 << 7;
