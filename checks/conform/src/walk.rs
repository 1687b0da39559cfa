//! What a guest's own page tables said to a fault: the walk that comes before KVM maps anything.
//!
//! Guarantee: a frame, W and a shadow page that a fault asks for are held against the entries that
//! KVM read, not against what is taken to be there; A, and D for a write, were set before KVM maps
//! the page.

/// The bits of an entry, and its frame.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// The root of four-level paging: guests in 64-bit mode have no smaller one.
pub const ROOT_LEVEL_MIN: u8 = 4;
/// Pages of 1 GiB.
const LARGE_LEVEL_MAX: u8 = 3;

/// One entry: `kvm_mmu_paging_element`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Element {
    /// The level of the table that it is in.
    pub level: u8,
    /// What it held.
    pub pte: u64,
}

impl Element {
    /// It maps a page, large or not.
    fn is_leaf(self) -> bool {
        self.level == 1 || self.level <= LARGE_LEVEL_MAX && self.pte & LARGE != 0
    }

    fn frame(self) -> u64 {
        (self.pte & FRAME) >> 12
    }
}

/// A walk of one address: `kvm_mmu_pagetable_walk`, and what follows it in the thread.
#[derive(Clone, Debug)]
pub struct Walk {
    address: u64,
    elements: Vec<Element>,
    /// Where A was set, and where D was.
    accessed: Vec<u64>,
    dirtied: Vec<u64>,
}

/// A shadow page that a walk asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shadow {
    /// Its frame: that of a guest's table, or the first that it maps.
    pub gfn: u64,
    /// No table of the guest is behind it: it splits a large page.
    pub direct: bool,
}

impl Walk {
    /// Nothing is read yet.
    pub fn of(address: u64) -> Walk {
        Walk { address, elements: Vec::new(), accessed: Vec::new(), dirtied: Vec::new() }
    }

    /// The page of the guest's address space.
    pub fn page(&self) -> u64 {
        self.address >> 12
    }

    /// An entry is read; `Err` says why no walk reads it here.
    pub fn read(&mut self, element: Element) -> Result<(), String> {
        let Element { level, .. } = element;
        let Some(last) = self.elements.last().copied() else {
            self.elements.push(element);
            return Ok(());
        };
        if level == self.elements[0].level {
            // An entry changed before its A or D was set: the walk begins again.
            self.elements = vec![element];
            self.accessed.clear();
            self.dirtied.clear();
            return Ok(());
        }
        if last.pte & PRESENT == 0 || last.is_leaf() {
            return Err(format!("the walk ends at level {}, where {:#x} is", last.level, last.pte));
        }
        if level + 1 != last.level {
            return Err(format!("the walk goes from level {} to level {level}", last.level));
        }
        self.elements.push(element);
        Ok(())
    }

    /// `kvm_mmu_set_accessed_bit` or `kvm_mmu_set_dirty_bit`, of the entry at `gpa`; `Err` says why
    /// KVM sets it in none.
    pub fn set(&mut self, gpa: u64, dirty: bool) -> Result<(), String> {
        let (bit, letter) = if dirty { (DIRTY, 'D') } else { (ACCESSED, 'A') };
        let may = |i: &usize| !dirty || self.elements[*i].is_leaf();
        let below = (1..self.elements.len()).filter(may).find(|i| self.gpa(*i) == gpa);
        // Where the root is, the walk does not say.
        let is_root = |e: &&Element| !dirty && gpa & 0xfff == self.index(e.level) * 8;
        let read = below.map(|i| &self.elements[i]);
        let Some(element) = read.or_else(|| self.elements.first().filter(is_root)) else {
            return Err(format!("{letter} is set at {gpa:#x}, where the walk has read no entry"));
        };
        let (level, is_set) = (element.level, element.pte & bit != 0);
        let bits = if dirty { &mut self.dirtied } else { &mut self.accessed };
        if is_set || bits.contains(&gpa) {
            return Err(format!("{letter} is set in the entry of level {level} already"));
        }
        bits.push(gpa);
        Ok(())
    }

    /// Which entry of its table the walk passes.
    fn index(&self, level: u8) -> u64 {
        self.page() >> (9 * u32::from(level - 1)) & 511
    }

    /// Where element `i` is, which is not the root's.
    fn gpa(&self, i: usize) -> u64 {
        (self.elements[i - 1].frame() << 12) | (self.index(self.elements[i].level) * 8)
    }

    /// The entry that maps the page.
    fn leaf(&self) -> Option<Element> {
        self.elements.last().copied().filter(|e| e.is_leaf() && e.pte & PRESENT != 0)
    }

    /// The frame that the guest maps there.
    pub fn gfn(&self) -> Option<u64> {
        let leaf = self.leaf()?;
        let inside = (1u64 << (9 * u32::from(leaf.level - 1))) - 1;
        Some(leaf.frame() & !inside | self.page() & inside)
    }

    /// The guest allows a write, or will when D, which is set for a write, is set.
    pub fn allows_write(&self, write: bool) -> bool {
        let all = self.elements.iter().all(|e| e.pte & WRITABLE != 0);
        all && self.leaf().is_some_and(|leaf| write || leaf.pte & DIRTY != 0)
    }

    /// User code may use the page.
    pub fn allows_user(&self) -> bool {
        self.elements.iter().all(|e| e.pte & USER != 0)
    }

    /// Code may be fetched from it.
    pub fn allows_fetch(&self) -> bool {
        self.elements.iter().all(|e| e.pte & NO_EXECUTE == 0)
    }

    /// The shadow page of `level`, if the walk says which: the root is the vCPU's own.
    pub fn shadow(&self, level: u8) -> Option<Shadow> {
        let leaf = self.leaf()?;
        if level < leaf.level {
            let inside = (1u64 << (9 * u32::from(level))) - 1;
            return Some(Shadow { gfn: self.gfn()? & !inside, direct: true });
        }
        let above = self.elements.iter().find(|e| e.level == level + 1)?;
        Some(Shadow { gfn: above.frame(), direct: false })
    }

    /// The first entry in which A, or D for a write, should have been set and was not: its level,
    /// and the bit. Where the root is, the walk does not say.
    pub fn unmarked(&self, write: bool) -> Option<(u8, char)> {
        for (i, element) in self.elements.iter().enumerate().skip(1) {
            let gpa = self.gpa(i);
            if element.pte & ACCESSED == 0 && !self.accessed.contains(&gpa) {
                return Some((element.level, 'A'));
            }
            let needs_d = write && element.is_leaf();
            if needs_d && element.pte & DIRTY == 0 && !self.dirtied.contains(&gpa) {
                return Some((element.level, 'D'));
            }
        }
        None
    }
}
