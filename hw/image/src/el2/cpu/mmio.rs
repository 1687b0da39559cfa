//! Device registers of 32 bits: the one place that reads and writes them.

/// A block of device registers, at an address that is mapped as device memory for good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers(usize);

impl Registers {
    /// The registers at `base`.
    ///
    /// # Safety
    /// A device must be there, mapped as device memory, and nothing else may use it.
    #[expect(unsafe_code, reason = "whoever names a device's address answers for it")]
    pub(crate) const unsafe fn at(base: usize) -> Registers {
        Registers(base)
    }
    /// Reads a register.
    #[expect(unsafe_code, reason = "device memory")]
    pub(crate) fn read(self, offset: usize) -> u32 {
        // SAFETY: `at`: a device is there.
        unsafe { ((self.0 + offset) as *const u32).read_volatile() }
    }
    /// Writes a register.
    #[expect(unsafe_code, reason = "device memory")]
    pub(crate) fn write(self, offset: usize, value: u32) {
        // SAFETY: `at`: a device is there.
        unsafe { ((self.0 + offset) as *mut u32).write_volatile(value) };
    }
}
