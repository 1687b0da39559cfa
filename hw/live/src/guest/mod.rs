//! The guests: a few dozen bytes of machine code per vCPU, and where they live.
//!
//! A guest either *stores*: a counter, to a page of a window that slides over the data pages, in an
//! order that [`Stores::sequence`] computes as well; or it runs a straight *program* of loads and
//! stores. It ends with an exit to user space that [`ended`] knows.
//!
//! Guest-physical memory: [`LOW_SIZE`] bytes at [`BASE`] for code and page tables, then the data
//! pages. The guest's addresses are physical ones, with its paging on or off.

#[cfg(target_arch = "aarch64")]
mod arm64;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
use arm64 as arch;
#[cfg(target_arch = "x86_64")]
use x86 as arch;

use std::io;

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::memory::{Memory, PAGE};

pub use arch::{BASE, MODES};

/// Bytes for code and page tables, below the data.
pub const LOW_SIZE: usize = 2 << 20;
/// Where the data pages begin.
pub const DATA: u64 = BASE + LOW_SIZE as u64;
/// Where the code of the first vCPU is, from [`BASE`] on; the others follow at a distance.
const CODE: usize = 0x1_0000;
/// The distance: a program of a vCPU is at most this long.
const CODE_MAX: usize = 0x4000;
/// Where programs meet before they begin: a byte that lets all of them go, and behind it a byte for
/// each vCPU that says that it waits, in guest mode.
const GO: usize = 0x8000;
/// Vcpus write to places of one page this far apart: different cache lines, the same page.
pub const LINE: usize = 64;
/// Most vCPUs: their places must fit a page, their code the low memory.
pub const VCPUS_MAX: usize = 16;

/// How the guest translates.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Its paging is on: an identity map.
    Paged,
    /// Its paging is off (x86): with npt=0 or ept=0 every shadow page is direct then.
    Unpaged,
}

impl Mode {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Paged => "paged",
            Mode::Unpaged => "unpaged",
        }
    }
}

/// What a storing guest does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stores {
    /// Stores of each vCPU.
    pub count: u32,
    /// Pages of the window; a power of two.
    pub window: u32,
    /// The window slides by a page every `2^slide` stores.
    pub slide: u8,
    /// Data pages; a power of two. The window wraps around at their end.
    pub pages: u32,
    /// What the order of pages depends on.
    pub seed: u32,
}

impl Stores {
    /// What the generator of `vcpu` starts with; never 0, where it would stay.
    fn start(&self, vcpu: usize) -> u32 {
        let vcpu = u32::try_from(vcpu).unwrap_or(u32::MAX);
        (self.seed ^ 0x9e37_79b9u32.wrapping_mul(vcpu.wrapping_add(1))).max(1)
    }

    /// The pages that `vcpu` stores to, in order, each with the value. The same computation as in
    /// the machine code.
    pub fn sequence(&self, vcpu: usize) -> impl Iterator<Item = (usize, u32)> + use<> {
        let Stores { count, window, slide, pages, .. } = *self;
        let mut x = self.start(vcpu);
        (0..count).map(move |done| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            let page = ((x >> 7) & (window - 1)).wrapping_add(done >> slide) & (pages - 1);
            (page as usize, done + 1)
        })
    }
}

/// A step of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Stores a byte to a data page.
    Write {
        /// The data page.
        page: u32,
        /// Where in it.
        offset: u32,
        /// What.
        value: u8,
    },
    /// Loads a byte from the beginning of a data page.
    Read {
        /// The data page.
        page: u32,
    },
}

impl Step {
    /// Where it goes, from the first data page on.
    fn place(self) -> u32 {
        match self {
            Step::Write { page, offset, .. } => (page << 12) + offset,
            Step::Read { page } => page << 12,
        }
    }
}

/// Writes what all vCPUs need into low memory: page tables. `small`: the data pages are mapped one
/// by one where the architecture has a choice here, so that there is more for KVM to shadow.
pub fn prepare(low: &Memory, small: bool) {
    arch::prepare(low, small);
}

/// Puts the storing guest of `vcpu` into low memory.
pub fn load_stores(low: &Memory, vcpu: usize, stores: &Stores) {
    load(low, vcpu, &arch::stores(stores));
}

/// Puts a program into a place of low memory. It says that it waits, waits for [`go`], and spins as
/// often as [`restart`] says before its first step.
///
/// # Errors
///
/// When it is too long.
pub fn load_program(low: &Memory, place: usize, program: &[Step]) -> io::Result<()> {
    let code = arch::program(program);
    if code.len() > CODE_MAX {
        return Err(io::Error::other("the program is too long for the guest's memory"));
    }
    load(low, place, &code);
    Ok(())
}

fn load(low: &Memory, place: usize, code: &[u8]) {
    assert!(code.len() <= CODE_MAX && place < VCPUS_MAX, "a guest fits its place");
    low.write(CODE + place * CODE_MAX, code);
}

/// Makes a vCPU ready to run from the beginning of its code. `stores` is for storing guests; others
/// need a [`restart`] as well.
///
/// # Errors
///
/// Those of KVM.
pub fn start(
    kvm: &Kvm,
    vm: &VmFd,
    (vcpu, fd): (usize, &VcpuFd),
    mode: Mode,
    stores: Option<&Stores>,
) -> io::Result<()> {
    let entry = BASE + (CODE + vcpu * CODE_MAX) as u64;
    let data = if stores.is_some() { DATA + (vcpu * LINE) as u64 } else { DATA };
    arch::start(kvm, vm, fd, mode, (entry, data), stores.map(|s| (s, s.start(vcpu))))
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// Lets a vCPU run the program at `place` next, with a delay of so many turns.
///
/// # Errors
///
/// Those of KVM.
pub fn restart((vcpu, fd): (usize, &VcpuFd), place: usize, delay: u32) -> io::Result<()> {
    let entry = BASE + (CODE + place * CODE_MAX) as u64;
    arch::restart(fd, entry, BASE + (GO + 1 + vcpu) as u64, delay.max(1))
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// Lets all programs go, or makes them wait when they run next.
pub fn go(low: &Memory, go: bool) {
    if !go {
        low.write(GO, &[0; 1 + VCPUS_MAX]);
    }
    low.write(GO, &[u8::from(go)]);
}

/// True if a vCPU waits for [`go`].
pub fn waits(low: &Memory, vcpu: usize) -> bool {
    low.read_byte(GO + 1 + vcpu) != 0
}

/// What a program has loaded last.
///
/// # Errors
///
/// Those of KVM.
pub fn last_read(fd: &VcpuFd) -> io::Result<u8> {
    arch::last_read(fd).map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// True if a guest ends by this exit.
pub fn ended(exit: &VcpuExit<'_>) -> bool {
    arch::ended(exit)
}

const _: () = assert!(CODE + VCPUS_MAX * CODE_MAX <= LOW_SIZE && VCPUS_MAX * LINE <= PAGE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides_and_every_page_goes_cold() {
        let stores = Stores { count: 10_000, window: 8, slide: 8, pages: 64, seed: 7 };
        let mut last = std::collections::BTreeMap::new();
        for (page, value) in stores.sequence(1) {
            assert!(page < 64);
            last.insert(page, value);
        }
        // 10,000 stores slide over 39 places; a page is written for 8 places of 256 stores.
        assert!(last.len() >= 39 && last.len() <= 47, "{}", last.len());
        assert!(last[&0] <= 256 && last[&20] <= 21 * 256 && last[&20] > 13 * 256);
    }

    #[test]
    fn vcpus_have_orders_of_their_own() {
        let stores = Stores { count: 100, window: 8, slide: 8, pages: 64, seed: 7 };
        assert!(stores.sequence(0).ne(stores.sequence(1)));
        assert!(stores.sequence(0).eq(stores.sequence(0)));
    }
}
