//! One operation of a program: its words, read and checked against memory.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use kvmmu_model::virt::VCPUS;
use kvmmu_model::{CpuId, Gfn, Gva, Pfn};

use super::error::{LoadError, Source, listed, quoted};
use super::locks;
use super::memory::{GFNS, Memory, PFNS, TABLE_ENTRIES, is_large_frame};
use super::table::{Text, Word};
use crate::ops::{
    Address, AnyGfn, Argument, Arguments, Entry, HostOp, LockRef, Op, SlotIndex, TableEntry,
    UserOp, VERBS, VcpuOp, Verb,
};
use crate::program::Runs;
use crate::scenario::{Backing, Paging, ThreadKind};

/// Reads one operation of a thread of this kind.
pub(super) fn parse<T: Runs>(
    text: &Text<'_>,
    kind: ThreadKind,
    paging: Paging,
    memory: &Memory,
) -> Result<T, LoadError> {
    text.plain_spaces()?;
    let words = text.words();
    let has = |v: &&Verb| kind.runs(v.who) && memory.arch.has_verb(v);
    let legal: Vec<&str> = VERBS.iter().filter(has).map(|v| v.name).collect();
    let Some((first, rest)) = words.split_first() else {
        return Err(text.error("an operation is empty", format!("name one of: {}", listed(legal))));
    };
    let Some(verb) = VERBS.iter().find(|v| v.name == first.text) else {
        return Err(text.source.unknown(first.at, "operation", first.text, &legal));
    };
    if !memory.arch.has_verb(verb) {
        return Err(memory.arch.lacks(text.source, first.at, "operation", first.text, legal));
    }
    let elsewhere = || {
        text.source.error(
            first.at,
            format!(
                "'{}' runs on {} threads, and this is a {} thread",
                verb.name,
                verb.who.name(),
                kind.name()
            ),
            format!("move it to another thread, or use one of: {}", listed(&legal)),
        )
    };
    if !kind.runs(verb.who) {
        return Err(elsewhere());
    }
    let mut reader = Reader { source: text.source, verb, first: *first, rest, paging, memory };
    if rest.len() != verb.arguments.len() {
        return Err(reader.miscounted(rest));
    }
    if verb.name == "load-cr3" && paging == Paging::Direct {
        return Err(text.source.error(
            first.at,
            "'load-cr3' needs a vCPU with paging = \"shadow\"",
            "without tables that are shadowed KVM has nothing to do with it: remove it, or add \
             paging = \"shadow\" to this thread",
        ));
    }
    let op = T::read(verb.name, &mut reader)?.ok_or_else(elsewhere)?;
    check(op.into(), verb, text.source, (*first, rest), memory)?;
    Ok(op)
}

/// Refuses what has the right form and makes no sense.
fn check(
    op: Op,
    verb: &Verb,
    source: Source<'_>,
    (first, rest): (Word<'_>, &[Word<'_>]),
    memory: &Memory,
) -> Result<(), LoadError> {
    let word = |i: usize| rest.get(i).copied().unwrap_or(first);
    if let Op::Lock(op) = op {
        locks::check_mode(source, verb, op, word(0), &memory.locks)?;
    }
    if let Some((argument, message, hint)) = misused_page(op, memory) {
        return Err(source.error(word(argument).at, message, hint));
    }
    match misused_table(op, memory) {
        None => Ok(()),
        Some((gfn, hint)) => Err(source.error(
            word(0).at,
            format!("'{}' on gfn{}, a guest page table", verb.name, gfn.0),
            hint,
        )),
    }
}

/// What is done with no page: merging a frame with itself, moving one to a page that is another
/// frame's own, a large page that begins in the middle of one. The number of the argument, what is
/// wrong, and a hint.
fn misused_page(op: Op, memory: &Memory) -> Option<(usize, String, &'static str)> {
    match op {
        Op::User(UserOp::VmmSetLargeGpte(_, to)) if !is_large_frame(to) => Some((
            1,
            format!("gfn{} does not begin a large page", to.0),
            "a large page begins at gfn0 or gfn4",
        )),
        Op::User(UserOp::VmmSetGpte(TableEntry { table, .. }, AnyGfn(to)))
            if memory.is_no_table_below_root(table, to) =>
        {
            Some((
                1,
                format!("gfn{} is no guest page table, and gfn{} is the root", to.0, table.0),
                "an entry of the root leads to a table: describe it in [guest], or map a large \
                 page by vmm-set-large-gpte",
            ))
        }
        Op::Host(HostOp::KsmMerge(keep, drop)) if keep == drop => Some((
            1,
            format!("gfn{} is merged with itself", keep.0),
            "name two frames: the second takes the page of the first",
        )),
        Op::Host(HostOp::ChangePte(gfn, pfn)) => {
            let own = |b: &&Backing| b.pfn == Some(pfn) && b.gfn != gfn && b.writable;
            let other = memory.backing.iter().find(own)?;
            Some((
                1,
                format!(
                    "pfn{} is gfn{}'s own page, which the host maps writable",
                    pfn.0, other.gfn.0
                ),
                "name a free page (raise 'pages' in [host]), or write writable = false for the \
                 frame that has it: only read-only pages are shared",
            ))
        }
        _ => None,
    }
}

const BELOW_ROOT: &str = "an entry of the root points to a table: describe it in [guest]";

/// What would leave a guest page table without sense: a plain store to it, moving it, or a root
/// that points to something else than a table.
fn misused_table(op: Op, memory: &Memory) -> Option<(Gfn, &'static str)> {
    let table = |gfn: Gfn| memory.table(gfn).map(|_| gfn);
    let moved = "the frames of guest page tables stay where they are: name another frame";
    match op {
        Op::Vcpu(VcpuOp::Write(address)) => {
            let gfn = match address {
                Address::Gfn(gfn) => gfn,
                Address::Gva(gva) => memory.translate(gva)?.0,
            };
            Some((table(gfn)?, "write its entries by set-gpte or emulate-gpte"))
        }
        Op::Vcpu(VcpuOp::EmulateGpte(TableEntry { table: gfn, .. }, to)) => {
            memory.is_no_table_below_root(gfn, to).then_some((gfn, BELOW_ROOT))
        }
        Op::Vcpu(op) => {
            let (entry, to) = op.stores_gpte()?;
            let Address::Gfn(gfn) = entry.table else { return None };
            memory.is_no_table_below_root(gfn, to).then_some((gfn, BELOW_ROOT))
        }
        Op::User(UserOp::VmmSetLargeGpte(TableEntry { table: gfn, .. }, _)) => {
            let hint =
                "only entries of the root map large pages: name the root, or use vmm-set-gpte";
            (memory.guest_root != Some(gfn)).then_some((gfn, hint))
        }
        Op::Host(HostOp::KsmMerge(keep, drop)) => Some((table(keep).or(table(drop))?, moved)),
        Op::Host(HostOp::CowBreak(gfn) | HostOp::ChangePte(gfn, _)) => Some((table(gfn)?, moved)),
        _ => None,
    }
}

/// Reads the arguments of one operation.
struct Reader<'a> {
    source: Source<'a>,
    verb: &'a Verb,
    /// The verb in the text.
    first: Word<'a>,
    /// The words that were not read yet.
    rest: &'a [Word<'a>],
    paging: Paging,
    memory: &'a Memory,
}

impl Arguments for Reader<'_> {
    type Error = LoadError;

    fn address(&mut self) -> Result<Address, LoadError> {
        let word = self.word()?;
        self.address_of(word)
    }

    fn entry(&mut self) -> Result<Entry, LoadError> {
        let (word, index) = self.indexed()?;
        let table = self.address_of(word)?;
        if let Address::Gfn(gfn) = table {
            self.is_table(gfn, word)?;
        }
        Ok(Entry { table, index })
    }

    fn table_entry(&mut self) -> Result<TableEntry, LoadError> {
        let (word, index) = self.indexed()?;
        let table = self.frame(word)?;
        self.is_table(table, word)?;
        Ok(TableEntry { table, index })
    }

    fn gfn(&mut self) -> Result<Gfn, LoadError> {
        let word = self.word()?;
        if self.verb.name == "prefault" && self.paging == Paging::Shadow {
            return Err(self.source.error(
                word.at,
                "'prefault' needs a vCPU with paging = \"direct\"",
                "add paging = \"direct\" to this thread",
            ));
        }
        self.frame(word)
    }

    fn any_gfn(&mut self) -> Result<AnyGfn, LoadError> {
        let word = self.word()?;
        Ok(AnyGfn(Gfn(u64::from(self.number::<AnyGfn>(word, "gfn", GFNS)?))))
    }

    fn gva(&mut self) -> Result<Gva, LoadError> {
        let word = self.word()?;
        match self.address_of(word)? {
            Address::Gva(gva) => Ok(gva),
            Address::Gfn(_) => Err(self.malformed::<Gva>(word)),
        }
    }

    fn pfn(&mut self) -> Result<Pfn, LoadError> {
        let word = self.word()?;
        let pages = self.memory.host_pages;
        if let Some(pfn) = self.below::<Pfn>(word, "pfn", usize::from(pages))? {
            return Ok(Pfn(u64::from(pfn)));
        }
        Err(self.source.error(
            word.at,
            format!("{} does not exist in the host", quoted(word.text)),
            format!("the host has {pages} pages: raise 'pages' in [host], up to {PFNS}"),
        ))
    }

    fn slot(&mut self) -> Result<SlotIndex, LoadError> {
        let word = self.word()?;
        let slots = self.memory.slots.len();
        if let Some(slot) = self.below::<SlotIndex>(word, "slot", slots)? {
            return Ok(SlotIndex(slot));
        }
        Err(self.source.error(
            word.at,
            format!("{} does not exist", quoted(word.text)),
            format!("slots count from slot0 in the order of [[slot]]; there are {slots}"),
        ))
    }

    fn lock(&mut self) -> Result<LockRef, LoadError> {
        locks::named(self.source, self.word()?, &self.memory.locks)
    }

    fn vcpu(&mut self) -> Result<CpuId, LoadError> {
        let word = self.word()?;
        let vcpus = usize::from(self.memory.vcpus);
        if let Some(vcpu) = self.below::<CpuId>(word, "vcpu", vcpus)? {
            return Ok(CpuId(vcpu));
        }
        Err(self.source.error(
            word.at,
            format!("{} does not exist", quoted(word.text)),
            format!("add a [[thread]] of that name (up to {VCPUS}), or name another vCPU"),
        ))
    }
}

impl<'a> Reader<'a> {
    /// The next argument.
    fn word(&mut self) -> Result<Word<'a>, LoadError> {
        let Some((word, rest)) = self.rest.split_first() else {
            return Err(self.miscounted(&[]));
        };
        self.rest = rest;
        Ok(*word)
    }

    /// There are `given` arguments, and the verb takes another number of them.
    fn miscounted(&self, given: &[Word<'_>]) -> LoadError {
        let takes = self.verb.arguments.len();
        self.source.error(
            given.get(takes).map_or(self.first.at, |w| w.at),
            format!(
                "'{}' takes {takes} argument{}, not {}",
                self.verb.name,
                if takes == 1 { "" } else { "s" },
                given.len()
            ),
            format!("write it as: {}", self.verb.form()),
        )
    }

    fn malformed<T: Argument>(&self, word: Word<'_>) -> LoadError {
        let message = format!("{} is not of the form {}", quoted(word.text), T::FORM);
        self.source.error(word.at, message, format!("write it as: {}", self.verb.form()))
    }

    fn number<T: Argument>(&self, word: Word<'_>, stem: &str, limit: u8) -> Result<u8, LoadError> {
        match numbered(word.text, stem) {
            Some(n) if n < u64::from(limit) => Ok(u8::try_from(n).unwrap_or(0)),
            Some(_) => Err(self.source.error(
                word.at,
                format!("{} is out of range", quoted(word.text)),
                format!("{stem}0 to {stem}{} exist", limit - 1),
            )),
            None => Err(self.malformed::<T>(word)),
        }
    }

    /// The number in a name, if it is below what the file itself has of that kind.
    fn below<T: Argument>(
        &self,
        word: Word<'_>,
        stem: &str,
        count: usize,
    ) -> Result<Option<u8>, LoadError> {
        let number = numbered(word.text, stem).ok_or_else(|| self.malformed::<T>(word))?;
        Ok(u8::try_from(number).ok().filter(|number| usize::from(*number) < count))
    }

    fn address_of(&self, word: Word<'_>) -> Result<Address, LoadError> {
        match (self.paging, word.text.starts_with("gva")) {
            (Paging::Direct, false) => self.frame(word).map(Address::Gfn),
            (Paging::Shadow, true) => {
                let gva = self.number::<Gva>(word, "gva", GFNS)?;
                Ok(Address::Gva(Gva(u64::from(gva))))
            }
            (Paging::Direct, true) => Err(self.source.error(
                word.at,
                format!("{}: this vCPU does not use guest page tables", quoted(word.text)),
                "name a guest frame such as gfn0, or set paging = \"shadow\" for this vCPU",
            )),
            (Paging::Shadow, false) => Err(self.source.error(
                word.at,
                format!("{}: this vCPU reaches memory by guest page tables", quoted(word.text)),
                "name a virtual page such as gva0, or set paging = \"direct\" for this vCPU",
            )),
        }
    }

    fn frame(&self, word: Word<'_>) -> Result<Gfn, LoadError> {
        let gfn = Gfn(u64::from(self.number::<Gfn>(word, "gfn", GFNS)?));
        self.memory.in_slot(gfn, self.source, word.at).map(|()| gfn)
    }

    /// `gfn3[0]` is next: the word before the bracket, and the index.
    fn indexed(&mut self) -> Result<(Word<'a>, u8), LoadError> {
        let word = self.word()?;
        let split = word.text.strip_suffix(']').and_then(|w| w.split_once('['));
        let Some((table, index)) = split else {
            return Err(self.malformed::<TableEntry>(word));
        };
        match index.parse::<u8>() {
            Ok(index) if index < TABLE_ENTRIES => Ok((Word { text: table, at: word.at }, index)),
            _ => Err(self.source.error(
                word.at + table.len() + 1,
                format!("{} is no entry of a guest page table", quoted(index)),
                format!("entries count from 0 to {}", TABLE_ENTRIES - 1),
            )),
        }
    }

    fn is_table(&self, gfn: Gfn, word: Word<'_>) -> Result<(), LoadError> {
        if self.memory.guest_tables.iter().any(|t| t.gfn == gfn) {
            return Ok(());
        }
        Err(self.source.error(
            word.at,
            format!("{} is not a guest page table", quoted(word.text)),
            format!("describe it in [guest]: \"{}\" = [\"gfn0 w\", \"-\"]", word.text),
        ))
    }
}

/// `gfn12` with stem `gfn` is 12. No signs, no leading zeroes.
pub(super) fn numbered(text: &str, stem: &str) -> Option<u64> {
    let digits = text.strip_prefix(stem)?;
    let canonical = digits == "0" || !digits.starts_with('0');
    if !canonical || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_spelling() {
        assert_eq!(numbered("gfn12", "gfn"), Some(12));
        assert_eq!(numbered("gfn99999999999999999999", "gfn"), Some(u64::MAX));
        for bad in ["gfn", "gfn01", "gfn+1", "gfn 1", "pfn1", "gfnx", ""] {
            assert_eq!(numbered(bad, "gfn"), None, "{bad}");
        }
    }
}
