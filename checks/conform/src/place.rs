//! Where the SPTE of a frame is, in tables that are direct.

/// Which table, and which of its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The level of the table: 1 maps 4 KiB pages.
    pub level: u8,
    /// The first frame that it maps.
    pub base: u64,
    /// The entry.
    pub index: u64,
}

impl Place {
    /// Of the entry of `level` that a walk for `gfn` passes.
    pub fn of(level: u8, gfn: u64) -> Place {
        // There are five levels at most.
        let bits = 9 * (u32::from(level.clamp(1, 5)) - 1);
        Place { level, base: gfn >> (bits + 9) << (bits + 9), index: gfn >> bits & 511 }
    }
}

/// The table that an address is in.
pub fn table(sptep: u64) -> u64 {
    sptep & !0xfff
}

/// Which entry of its table an address is.
pub fn index(sptep: u64) -> u64 {
    (sptep & 0xfff) / 8
}
