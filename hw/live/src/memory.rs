//! Guest memory, as user space sees it: a mapping that vCPUs write while we read.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use rustix::mm::Advice;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use crate::sys;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Who else sees the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backing {
    /// The page cache (shmem): what is unmapped keeps its contents.
    Shared,
    /// Nobody: copy-on-write after a fork, and same-page merging.
    Private,
}

/// A mapping of whole pages.
#[derive(Clone, Debug)]
pub struct Memory {
    region: Arc<MmapRegion>,
}

impl Memory {
    /// Maps `pages` new pages, all zero.
    ///
    /// # Errors
    ///
    /// Those of mmap.
    pub fn new(pages: usize, backing: Backing) -> io::Result<Memory> {
        let flags = libc::MAP_ANONYMOUS
            | libc::MAP_NORESERVE
            | match backing {
                Backing::Shared => libc::MAP_SHARED,
                Backing::Private => libc::MAP_PRIVATE,
            };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let region = MmapRegion::build(None, pages * PAGE, protection, flags)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Memory { region: Arc::new(region) })
    }

    /// The mapping, for a memslot.
    pub fn region(&self) -> &Arc<MmapRegion> {
        &self.region
    }

    /// Where it is mapped.
    pub fn address(&self) -> usize {
        self.region.as_ptr().addr()
    }

    /// How many pages.
    pub fn pages(&self) -> usize {
        self.region.size() / PAGE
    }

    /// Writes bytes at an offset that is known to be inside.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.at(offset, bytes.len()).copy_from(bytes);
    }

    /// Reads a byte at an offset that is known to be inside.
    pub fn read_byte(&self, offset: usize) -> u8 {
        let mut byte = [0];
        self.at(offset, 1).copy_to(&mut byte);
        byte[0]
    }

    /// Copies a page out.
    ///
    /// # Panics
    ///
    /// When there is no such page, or `to` is not a page long.
    pub fn copy_page(&self, page: usize, to: &mut [u8]) {
        assert_eq!(to.len(), PAGE, "a page is copied into a page");
        self.at(page * PAGE, PAGE).copy_to(to);
    }

    /// Copies everything out.
    pub fn copy_all(&self, to: &mut [u8]) {
        self.at(0, to.len()).copy_to(to);
    }

    /// Applies madvise to a range of pages.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub fn advise(&self, pages: Range<usize>, advice: Advice) -> io::Result<()> {
        sys::advise(&self.region, (pages.start * PAGE, pages.len() * PAGE), advice)
    }

    /// Makes a range of pages read-only, or writable again.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub fn protect(&self, pages: Range<usize>, writable: bool) -> io::Result<()> {
        sys::protect(&self.region, (pages.start * PAGE, pages.len() * PAGE), writable)
    }

    fn at(&self, offset: usize, len: usize) -> VolatileSlice<'_> {
        self.region.get_slice(offset, len).expect("the offset lies in guest memory")
    }
}
