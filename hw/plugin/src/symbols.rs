//! The functions of the running kernel, as /proc/kallsyms has them.

use kvmmu_steps::event::{Arch, Site};
use kvmmu_steps::functions;

/// A function.
#[derive(Clone, Debug)]
struct Function {
    begin: u64,
    name: Box<str>,
    /// Its number, if its calls are recorded.
    number: Option<u8>,
    /// It is of the file whose code stores descriptors.
    writes: bool,
    /// What its accesses are looked at for.
    role: Option<Role>,
}

/// What the accesses of a function are looked at for, beside descriptors and locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// It handles a fault: its loads are looked at as well.
    Fault,
    /// It begins an invalidation.
    Begin,
    /// It ends one.
    End,
    /// It marks a page dirty.
    Mark,
}

/// All of them, by address.
#[derive(Debug)]
pub(crate) struct Symbols {
    arch: Arch,
    functions: Vec<Function>,
    /// Where the code is that stores descriptors: one file of the kernel, all of it at one place.
    writers: (u64, u64),
    /// A line that has not ended yet.
    rest: String,
}

impl Symbols {
    /// None so far.
    pub(crate) fn new(arch: Arch) -> Symbols {
        Symbols { arch, functions: Vec::new(), writers: (0, 0), rest: String::new() }
    }

    /// More text; lines may be cut anywhere.
    pub(crate) fn push(&mut self, text: &str) {
        self.rest.push_str(text);
        let Some(end) = self.rest.rfind('\n') else { return };
        let lines: String = self.rest.drain(..=end).collect();
        let functions = lines.lines().filter_map(|line| function(self.arch, line));
        self.functions.extend(functions);
    }

    /// All lines are there.
    pub(crate) fn complete(&mut self) {
        self.push("\n");
        self.functions.sort_by_key(|function| function.begin);
        self.functions.dedup_by_key(|function| function.begin);
        let first = self.functions.iter().position(|function| function.writes);
        let last = self.functions.iter().rposition(|function| function.writes);
        if let (Some(first), Some(last)) = (first, last) {
            let end = self.functions.get(last + 1).map_or(u64::MAX, |function| function.begin);
            self.writers = (self.functions[first].begin, end);
        }
    }

    /// How many functions are there whose calls are recorded.
    pub(crate) fn recorded(&self) -> usize {
        self.functions.iter().filter(|function| function.number.is_some()).count()
    }

    fn at(&self, pc: u64) -> Option<&Function> {
        let after = self.functions.partition_point(|function| function.begin <= pc);
        self.functions.get(after.checked_sub(1)?)
    }

    /// Where an instruction is.
    pub(crate) fn site(&self, pc: u64) -> Site {
        let function = self.at(pc).filter(|function| pc - function.begin < 1 << 20);
        let (name, begin) = function.map_or(("", pc), |f| (&*f.name, f.begin));
        let offset = u32::try_from(pc - begin).unwrap_or(u32::MAX);
        Site { pc, function: name.to_owned(), offset }
    }

    /// The number of the function that begins here, if its calls are recorded.
    pub(crate) fn begins(&self, pc: u64) -> Option<u8> {
        self.at(pc).filter(|function| function.begin == pc)?.number
    }

    /// The number of the function that this instruction is in, if its calls are recorded.
    pub(crate) fn inside(&self, pc: u64) -> Option<u8> {
        self.at(pc)?.number
    }

    /// What accesses of this instruction are looked at for.
    pub(crate) fn role(&self, pc: u64) -> Option<Role> {
        self.at(pc)?.role
    }

    /// True if the function of this name begins here.
    pub(crate) fn is(&self, pc: u64, name: &str) -> bool {
        self.at(pc).is_some_and(|function| function.begin == pc && &*function.name == name)
    }

    /// True if code here may store descriptors.
    pub(crate) fn writes_descriptors(&self, pc: u64) -> bool {
        match self.arch {
            Arch::Arm64 => (self.writers.0..self.writers.1).contains(&pc),
            // Where modules are: they have no kallsyms names for all of their code.
            Arch::X86 => (0xffff_ffff_c000_0000..0xffff_ffff_ff00_0000).contains(&pc),
        }
    }

    /// Where a function's code is: from its beginning to that of the next one. Where there is none
    /// of this name, what the compiler made of it counts: `name.part.0`.
    pub(crate) fn range(&self, name: &str) -> Option<(u64, u64)> {
        let find = |is: &dyn Fn(&str) -> bool| {
            self.functions.iter().position(|function| is(&function.name))
        };
        let part = |full: &str| full.split_once('.').is_some_and(|(plain, _)| plain == name);
        let index = find(&|full| full == name).or_else(|| find(&part))?;
        let begin = self.functions[index].begin;
        self.functions.get(index + 1).map(|next| (begin, next.begin))
    }
}

/// A function, if the line has one: `address t name [module]`.
fn function(arch: Arch, line: &str) -> Option<Function> {
    let mut words = line.split_ascii_whitespace();
    let begin = u64::from_str_radix(words.next()?, 16).ok().filter(|begin| *begin != 0)?;
    matches!(words.next()?, "t" | "T" | "w" | "W").then_some(())?;
    let full = words.next()?;
    // What the compiler made of it: 'name.isra.0', 'name.part.0' begin elsewhere.
    let plain = full.split('.').next().unwrap_or(full);
    Some(Function {
        begin,
        name: full.into(),
        number: functions::number(plain),
        writes: functions::writes_descriptors(arch, full),
        role: role(plain),
    })
}

fn role(name: &str) -> Option<Role> {
    let is = |names: &[&str]| names.contains(&name);
    match name {
        _ if is(functions::OF_FAULTS) => Some(Role::Fault),
        _ if is(functions::BEGIN_INVALIDATION) => Some(Role::Begin),
        _ if is(functions::END_INVALIDATION) => Some(Role::End),
        _ if is(functions::MARK) => Some(Role::Mark),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_may_be_cut_anywhere() {
        let text = "ffff800008050e80 T kvm_vm_ioctl\n0000000000000000 A nothing\n\
                    ffff80000808a600 t stage2_attr_walker\nffff80000808a700 D data\n\
                    ffff80000808a800 t stage2_apply_range\n";
        for cut in 0..text.len() {
            let mut symbols = Symbols::new(Arch::Arm64);
            symbols.push(&text[..cut]);
            symbols.push(&text[cut..]);
            symbols.complete();
            let site = symbols.site(0xffff_8000_0808_a668);
            assert_eq!(site.to_string(), "stage2_attr_walker+0x68");
            assert_eq!(symbols.begins(0xffff_8000_0805_0e80), functions::number("kvm_vm_ioctl"));
            assert_eq!(symbols.begins(0xffff_8000_0805_0e84), None);
            assert_eq!(symbols.recorded(), 1);
            assert!(symbols.writes_descriptors(0xffff_8000_0808_a668));
            assert!(!symbols.writes_descriptors(0xffff_8000_0808_a804));
            let range = symbols.range("stage2_attr_walker");
            assert_eq!(range, Some((0xffff_8000_0808_a600, 0xffff_8000_0808_a800)));
        }
    }
}
