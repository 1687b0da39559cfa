//! One operation of a program: its words, read and checked against memory.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use kvmmu_model::mmu::VCPUS;
use kvmmu_model::{Access, CpuId, Gfn, Gva, Pfn};

use super::error::{LoadError, Source, listed, quoted};
use super::locks;
use super::memory::{GFNS, Memory, PFNS, TABLE_ENTRIES};
use super::ops::Argument as A;
use super::ops::{Argument, VERBS, Value, Verb, kind_name};
use super::table::{Text, Word};
use crate::scenario::{Address, Backing, Op, Paging, ThreadKind};

/// Reads one operation of a thread of this kind.
pub(super) fn parse(
    text: &Text<'_>,
    kind: ThreadKind,
    paging: Paging,
    memory: &Memory,
) -> Result<Op, LoadError> {
    text.plain_spaces()?;
    let words = text.words();
    let legal: Vec<&str> = VERBS.iter().filter(|v| v.who.has(kind)).map(|v| v.name).collect();
    let Some((first, rest)) = words.split_first() else {
        return Err(text.error("an operation is empty", format!("name one of: {}", listed(legal))));
    };
    let Some(verb) = VERBS.iter().find(|v| v.name == first.text) else {
        return Err(text.source.unknown(first.at, "operation", first.text, &legal));
    };
    if !verb.who.has(kind) {
        return Err(text.source.error(
            first.at,
            format!(
                "'{}' runs on {} threads, and this is a {} thread",
                verb.name,
                verb.who.name(),
                kind_name(kind)
            ),
            format!("move it to another thread, or use one of: {}", listed(legal)),
        ));
    }
    if rest.len() != verb.arguments.len() {
        let at = rest.get(verb.arguments.len()).map_or(first.at, |w| w.at);
        return Err(text.source.error(
            at,
            format!(
                "'{}' takes {} argument{}, not {}",
                verb.name,
                verb.arguments.len(),
                if verb.arguments.len() == 1 { "" } else { "s" },
                rest.len()
            ),
            format!("write it as: {}", verb.form()),
        ));
    }
    let reader = Reader { source: text.source, verb, paging, memory };
    let mut values = Vec::new();
    for (argument, word) in verb.arguments.iter().zip(rest) {
        values.push(reader.argument(*argument, *word)?);
    }
    let op = (verb.make)(&values).ok_or_else(|| {
        text.source.error(first.at, "operation not understood", format!("use {}", verb.form()))
    })?;
    if let Some((argument, message, hint)) = misused_page(op, memory) {
        let at = rest.get(argument).map_or(first.at, |w| w.at);
        return Err(text.source.error(at, message, hint));
    }
    match misused_table(op, memory) {
        None => Ok(op),
        Some((gfn, hint)) => Err(text.source.error(
            rest.first().map_or(first.at, |w| w.at),
            format!("'{}' on gfn{}, a guest page table", verb.name, gfn.0),
            hint,
        )),
    }
}

/// What the host does with no page: merging a frame with itself, moving one to a page that is
/// another frame's own. The number of the argument, what is wrong, and a hint.
fn misused_page(op: Op, memory: &Memory) -> Option<(usize, String, &'static str)> {
    match op {
        Op::KsmMerge(keep, drop) if keep == drop => Some((
            1,
            format!("gfn{} is merged with itself", keep.0),
            "name two frames: the second takes the page of the first",
        )),
        Op::ChangePte(gfn, pfn) => {
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

/// What would leave a guest page table without sense: a plain store to it, moving it, or a root
/// that points to something else than a table.
fn misused_table(op: Op, memory: &Memory) -> Option<(Gfn, &'static str)> {
    let table = |gfn: Gfn| memory.table(gfn).map(|_| gfn);
    let moved = "the frames of guest page tables stay where they are: name another frame";
    match op {
        Op::Guest(Access::Write, address) => {
            let gfn = match address {
                Address::Gfn(gfn) => gfn,
                Address::Gva(gva) => memory.translate(gva)?.0,
            };
            Some((table(gfn)?, "write its entries by set-gpte or emulate-gpte"))
        }
        Op::SetGpte(Address::Gfn(gfn), _, to) | Op::EmulateGpte(gfn, _, to) => {
            let bad = memory.guest_root == Some(gfn)
                && (to == gfn || !memory.guest_tables.iter().any(|t| t.gfn == to));
            bad.then_some((gfn, "an entry of the root points to a table: describe it in [guest]"))
        }
        Op::KsmMerge(keep, drop) => Some((table(keep).or(table(drop))?, moved)),
        Op::SwapOut(gfn) | Op::CowBreak(gfn) | Op::ChangePte(gfn, _) => Some((table(gfn)?, moved)),
        _ => None,
    }
}

/// Reads the arguments of one operation.
struct Reader<'a> {
    source: Source<'a>,
    verb: &'a Verb,
    paging: Paging,
    memory: &'a Memory,
}

impl Reader<'_> {
    fn argument(&self, argument: Argument, word: Word<'_>) -> Result<Value, LoadError> {
        match argument {
            A::Address => self.address(word).map(Value::Address),
            A::Entry => {
                let (table, index) = self.entry(word)?;
                let address = self.address(table)?;
                if let Address::Gfn(gfn) = address {
                    self.table(gfn, table)?;
                }
                Ok(Value::Entry(address, index))
            }
            A::TableEntry => {
                let (table, index) = self.entry(word)?;
                let gfn = self.frame(table)?;
                self.table(gfn, table)?;
                Ok(Value::TableEntry(gfn, index))
            }
            A::Frame => {
                if self.verb.name == "prefault" && self.paging == Paging::Shadow {
                    return Err(self.source.error(
                        word.at,
                        "'prefault' needs a vCPU with paging = \"direct\"",
                        "add paging = \"direct\" to this thread",
                    ));
                }
                self.frame(word).map(Value::Frame)
            }
            A::Virtual => match self.address(word)? {
                Address::Gva(gva) => Ok(Value::Virtual(gva)),
                Address::Gfn(_) => Err(self.malformed(word, argument)),
            },
            A::HostPage => {
                let pages = self.memory.host_pages;
                if let Some(pfn) = self.below(word, "pfn", usize::from(pages), argument)? {
                    return Ok(Value::HostPage(Pfn(u64::from(pfn))));
                }
                Err(self.source.error(
                    word.at,
                    format!("{} does not exist in the host", quoted(word.text)),
                    format!("the host has {pages} pages: raise 'pages' in [host], up to {PFNS}"),
                ))
            }
            A::Slot => {
                let slots = self.memory.slots.len();
                if let Some(slot) = self.below(word, "slot", slots, argument)? {
                    return Ok(Value::Slot(slot));
                }
                Err(self.source.error(
                    word.at,
                    format!("{} does not exist", quoted(word.text)),
                    format!("slots count from slot0 in the order of [[slot]]; there are {slots}"),
                ))
            }
            A::Lock(mode) => locks::named(self.source, word, mode, self.verb).map(Value::Lock),
            A::VcpuName => {
                let vcpus = usize::from(self.memory.vcpus);
                if let Some(vcpu) = self.below(word, "vcpu", vcpus, argument)? {
                    return Ok(Value::VcpuName(CpuId(vcpu)));
                }
                Err(self.source.error(
                    word.at,
                    format!("{} does not exist", quoted(word.text)),
                    format!("add a [[thread]] of that name (up to {VCPUS}), or name another vCPU"),
                ))
            }
        }
    }

    fn malformed(&self, word: Word<'_>, argument: Argument) -> LoadError {
        let message = format!("{} is not of the form {}", quoted(word.text), argument.form());
        self.source.error(word.at, message, format!("write it as: {}", self.verb.form()))
    }

    fn number(
        &self,
        word: Word<'_>,
        stem: &str,
        limit: u8,
        argument: Argument,
    ) -> Result<u8, LoadError> {
        match numbered(word.text, stem) {
            Some(n) if n < u64::from(limit) => Ok(u8::try_from(n).unwrap_or(0)),
            Some(_) => Err(self.source.error(
                word.at,
                format!("{} is out of range", quoted(word.text)),
                format!("{stem}0 to {stem}{} exist", limit - 1),
            )),
            None => Err(self.malformed(word, argument)),
        }
    }

    /// The number in a name, if it is below what the file itself has of that kind.
    fn below(
        &self,
        word: Word<'_>,
        stem: &str,
        count: usize,
        argument: Argument,
    ) -> Result<Option<u8>, LoadError> {
        let number = numbered(word.text, stem).ok_or_else(|| self.malformed(word, argument))?;
        Ok(u8::try_from(number).ok().filter(|number| usize::from(*number) < count))
    }

    fn address(&self, word: Word<'_>) -> Result<Address, LoadError> {
        match (self.paging, word.text.starts_with("gva")) {
            (Paging::Direct, false) => self.frame(word).map(Address::Gfn),
            (Paging::Shadow, true) => {
                let gva = self.number(word, "gva", GFNS, A::Virtual)?;
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
        let gfn = Gfn(u64::from(self.number(word, "gfn", GFNS, A::Frame)?));
        self.memory.in_slot(gfn, self.source, word.at).map(|()| gfn)
    }

    /// `gfn3[0]`: the word before the bracket, and the index.
    fn entry<'w>(&self, word: Word<'w>) -> Result<(Word<'w>, u8), LoadError> {
        let split = word.text.strip_suffix(']').and_then(|w| w.split_once('['));
        let Some((table, index)) = split else {
            return Err(self.malformed(word, A::TableEntry));
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

    fn table(&self, gfn: Gfn, word: Word<'_>) -> Result<(), LoadError> {
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
