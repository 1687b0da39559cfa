//! What becomes of what QEMU tells: events, in a file.

mod arm64;
mod log;
mod x86;

use kvmmu_steps::event::{Arch, Frame, Place, User, What, Word};
use kvmmu_steps::file::{Header, Writer};
use kvmmu_steps::functions;

use crate::channel::{self, Message};
use crate::code::Code;
use crate::hold::{Holding, Step, Until};
use crate::kind::Kind;
use crate::options::Options;
use crate::qemu::{self, Access, Cpu, Info, Register, Site};
use crate::ram::Ram;
use crate::registers::Registers;
use crate::symbols::{Role, Symbols};
use crate::tables::Tables;
use crate::watch;
use crate::x86::CR4_LA57;
use log::Log;

/// Stacks of the kernel's threads are so large, and aligned to it.
const STACK: u64 = 16 << 10;
/// `struct kvm` is no larger; its lock is at its beginning.
const KVM_SIZE: u64 = 128 << 10;

/// Everything that is known.
#[derive(Debug)]
pub(crate) struct Recorder {
    arch: Arch,
    log: Log,
    options: Options,
    ram: Option<Ram>,
    registers: Registers,
    symbols: Symbols,
    tables: Tables,
    /// Words that are watched.
    words: Vec<Watched>,
    /// How far words of a `struct kvm` are from its lock, as far as they were found.
    offsets: Vec<(Word, u64)>,
    /// CPUs that run a guest: the address of its VMCB, on x86.
    inside: Vec<Option<u64>>,
    /// How far virtual addresses of descriptors are from physical ones.
    linear: Option<u64>,
    /// Instructions that come after a VMRUN.
    after_vmrun: Vec<u64>,
    /// Where CPUs are held.
    holding: Vec<Holding>,
}

/// A word that is watched.
#[derive(Clone, Copy, Debug)]
struct Watched {
    word: Word,
    address: u64,
    value: u64,
}

/// Where something happens.
#[derive(Clone, Copy, Debug)]
struct At {
    cpu: u8,
    thread: u32,
    pc: u64,
}

impl Recorder {
    /// Of a machine.
    pub(crate) fn new(arch: Arch, info: &Info) -> Result<Recorder, String> {
        let options = Options::read(&info.options)?;
        let header = Header {
            arch,
            cpus: info.cpus,
            schedule: options.schedule,
            exact: !options.threads,
            guest: options.guest,
        };
        Ok(Recorder {
            arch,
            log: Log::new(&options.out, &header)?,
            options,
            ram: None,
            registers: Registers::new(arch),
            symbols: Symbols::new(arch),
            tables: Tables::new(arch),
            words: Vec::new(),
            offsets: Vec::new(),
            inside: Vec::new(),
            linear: None,
            after_vmrun: Vec::new(),
            holding: Vec::new(),
        })
    }

    /// The first CPU is there, and so is the machine's memory.
    pub(crate) fn begin(&mut self, registers: &[Register]) {
        if self.registers.are_known() {
            return;
        }
        if let Err(error) = self.registers.found(registers) {
            self.log.fail(error);
        }
        match Ram::map(&self.options.ram, self.arch) {
            Ok(ram) => self.ram = Some(ram),
            Err(error) => self.log.fail(error),
        }
    }

    /// True if accesses of guests are looked at.
    pub(crate) fn looks_at_guests(&self) -> bool {
        self.options.guest
    }

    /// What an instruction of the kernel is, now that its functions are known.
    pub(crate) fn kind(&mut self, pc: u64, len: usize, kind: Kind) -> Kind {
        if self.holding.iter().any(|holding| holding.is_at(pc).is_some()) {
            return Kind::Gate;
        }
        let leaves = self.symbols.is(pc, "__guest_exit") || self.after_vmrun.contains(&pc);
        match kind {
            Kind::Vmrun => {
                let next = pc + len as u64;
                if !self.after_vmrun.contains(&next) {
                    self.after_vmrun.push(next);
                }
                kind
            }
            Kind::Ret => self.symbols.inside(pc).map_or(Kind::Other, Kind::Return),
            Kind::Other if leaves => Kind::GuestExit,
            Kind::Other => self.symbols.begins(pc).map_or(kind, Kind::Call),
            _ => kind,
        }
    }

    /// Where this is. Where CPUs have no threads of their own, QEMU's number is that of the CPU
    /// that translated the code; the kernel's own data tell them apart.
    fn at(&mut self, cpu: Cpu, pc: u64) -> At {
        let (own, task) = match self.arch {
            Arch::Arm64 => self.who_arm64(),
            Arch::X86 => self.who_x86(),
        };
        let cpu = match (self.options.threads, own) {
            (true, _) => cpu.0 as u8,
            (false, Some(own)) => self.log.cpu(own),
            // The CPU is where the thread was last.
            (false, None) => task.and_then(|task| self.log.cpu_of(task)).unwrap_or(0),
        };
        At { cpu, thread: self.log.thread(cpu, task), pc }
    }

    fn say(&mut self, at: At, what: What) {
        self.log.say(&self.symbols, at, what);
    }

    /// All that tables have to tell, at a place.
    fn tables(&mut self, at: At, f: impl FnOnce(&mut Tables, &Ram, &mut dyn FnMut(What) -> u64)) {
        let Some(ram) = &self.ram else { return };
        let (log, symbols) = (&mut self.log, &self.symbols);
        f(&mut self.tables, ram, &mut |what| log.say(symbols, at, what));
    }

    fn audit(&mut self, at: At) {
        let now = self.log.events();
        self.tables(at, |tables, ram, tell| tables.audit(ram, now, tell));
    }

    /// Before an instruction; true: all code is to be translated again.
    pub(crate) fn execute(&mut self, cpu: Cpu, site: Site) -> bool {
        if site.kind == Kind::Message {
            return self.message(cpu, site.pc);
        }
        let at = self.at(cpu, site.pc);
        match site.kind {
            Kind::Root(register) => self.root_arm64(at, register),
            Kind::Vmrun => self.enter_x86(at),
            Kind::Call(function) => self.call(at, function),
            Kind::Gate => self.gate(at),
            _ if self.tables.is_empty() => {}
            Kind::Tlbi(word) => self.tlbi_arm64(at, word),
            Kind::Barrier(barrier) => self.say(at, What::Barrier(barrier)),
            Kind::Invlpga => self.invlpga_x86(at),
            Kind::Eret => self.enter_arm64(at),
            Kind::GuestExit => match self.arch {
                Arch::Arm64 => self.exit_arm64(at),
                Arch::X86 => self.exit_x86(at),
            },
            Kind::Zero(register) => self.zero_arm64(at, register),
            Kind::Return(function) => {
                let value = self.registers.result();
                self.say(at, What::Return { function, value });
                self.others_do(at, Until::Return(function));
            }
            Kind::Message | Kind::Vmload | Kind::Ret | Kind::Other => {}
        }
        false
    }

    fn call(&mut self, at: At, function: u8) {
        let arguments = self.registers.arguments();
        if functions::MAKE_VM.contains(&functions::name(function)) {
            // mmu_lock is the first member of struct kvm. What was there before has gone with its
            // VM.
            let lock = arguments[0] & !7;
            self.words.retain(|watched| !(lock..lock + KVM_SIZE).contains(&watched.address));
            self.watch(Word::MmuLock, lock);
            for (word, offset) in self.offsets.clone() {
                self.watch(word, lock + offset);
            }
        }
        self.say(at, What::Call { function, arguments });
    }

    /// A CPU is where it may be held.
    fn gate(&mut self, at: At) {
        let code = code(self.arch, &self.ram, &self.registers);
        let events = self.log.events();
        let mut said = Vec::new();
        for holding in &mut self.holding {
            if let Some(pc) = holding.is_at(at.pc)
                && let Some(step) = holding.pass(at.cpu, at.pc, events, code)
            {
                said.push((At { pc, ..at }, format!("hold-{}", holding.name()), step));
            }
        }
        for (at, op, step) in said {
            let (exit, fields) = match step {
                Step::Begins => (false, Vec::new()),
                Step::Ends { over } => (true, vec![("over".to_owned(), u64::from(over))]),
            };
            self.say(at, What::User(User::Mark { op, exit, fields }));
        }
    }

    /// What CPUs may be held for happens.
    fn others_do(&mut self, at: At, what: Until) {
        self.holding.iter_mut().for_each(|holding| holding.see(at.cpu, what));
    }

    /// Stores to this word are events from now on. It is zero.
    fn watch(&mut self, word: Word, address: u64) {
        let address = address & !7;
        self.words.push(Watched { word, address, value: 0 });
        for (number, watched) in self.words.iter().enumerate() {
            watch::word(number, watched.address);
        }
    }

    /// What accesses of an instruction are looked at for, beside descriptors and locks.
    pub(crate) fn role(&self, pc: u64) -> Option<Role> {
        self.symbols.role(self.home(pc))
    }

    /// Where an instruction stands in the kernel: it may have been moved to make room to wait.
    fn home(&self, pc: u64) -> u64 {
        self.holding.iter().find_map(|holding| holding.home(pc)).unwrap_or(pc)
    }

    /// After an access of a function that has a role.
    pub(crate) fn touched(&mut self, cpu: Cpu, access: Access, pc: u64) {
        let pc = self.home(pc);
        let role = self.symbols.role(pc);
        if !access.is_store() {
            if role == Some(Role::Fault) {
                self.loaded(cpu, access, pc);
            }
            return;
        }
        let address = access.address & !7;
        let known = |words: &[Watched]| words.iter().any(|watched| watched.address == address);
        if !known(&self.words)
            && let Some((word, offset)) = self.found(role, address)
        {
            if word == Word::DirtyBitmap {
                let at = self.at(cpu, pc);
                let new = access.value()[0];
                return self.say(at, What::Word { word, address, old: 0, new });
            }
            self.watch(word, address);
            self.offsets.push((word, offset));
        }
        if known(&self.words) {
            self.word(cpu, access, pc);
        }
        if let Some(physical) = access.physical()
            && watch::has_page(Frame::of(physical))
        {
            self.store(cpu, access, physical, pc);
        }
    }

    /// What a word is that a function of this role stores to, and how far it is from the lock.
    fn found(&self, role: Option<Role>, address: u64) -> Option<(Word, u64)> {
        let role = role?;
        if role == Role::Mark {
            let same_stack = address & !(STACK - 1) == self.registers.stack() & !(STACK - 1);
            return (!same_stack).then_some((Word::DirtyBitmap, 0));
        }
        // Of the VM whose lock is held.
        let held = |w: &&Watched| w.word == Word::MmuLock && w.value & 0xff != 0;
        let kvm = |w: &&Watched| (w.address..w.address + KVM_SIZE).contains(&address);
        let kvm = self.words.iter().filter(held).find(kvm)?.address;
        let has = |word| {
            let of = |w: &Watched| (kvm..kvm + KVM_SIZE).contains(&w.address) && w.word == word;
            self.words.iter().any(of)
        };
        let word = match (role, has(Word::InvalidateCount), has(Word::InvalidateSeq)) {
            (Role::Begin, false, _) => Word::InvalidateCount,
            (Role::End, true, false) => Word::InvalidateSeq,
            _ => return None,
        };
        Some((word, address - kvm))
    }

    /// After a load of a function that handles a fault.
    fn loaded(&mut self, cpu: Cpu, access: Access, pc: u64) {
        let address = access.address & !7;
        let value = access.value()[0];
        let whole = access.size() == 8;
        let watched = self.words.iter().find(|watched| watched.address == address);
        if let Some(word) = watched.map(|watched| watched.word) {
            if word != Word::MmuLock && whole {
                let at = self.at(cpu, pc);
                self.say(at, What::Read { word, address, value });
            }
            return;
        }
        if let Some(physical) = access.physical().filter(|_| whole) {
            let table = Frame::of(physical);
            if self.tables.has(table) {
                let at = self.at(cpu, pc);
                let place = Place { table, index: (physical % 4096 / 8) as u16 };
                self.say(at, What::Load { place, value });
            }
        }
    }

    /// A CPU runs a guest from now on, or not any more.
    fn is_inside(&mut self, cpu: u8, inside: Option<u64>) {
        let cpu = usize::from(cpu);
        if self.inside.len() <= cpu {
            self.inside.resize(cpu + 1, None);
        }
        self.inside[cpu] = inside;
    }

    /// After a store to a page that is watched.
    pub(crate) fn store(&mut self, cpu: Cpu, access: Access, address: u64, pc: u64) {
        let pc = self.home(pc);
        let at = self.at(cpu, pc);
        let table = Frame::of(address);
        if !self.symbols.writes_descriptors(pc) {
            self.tables(at, |tables, _, tell| tables.reuse(table, tell));
            return;
        }
        self.linear = Some(access.address.wrapping_sub(address));
        let (size, value) = (access.size(), access.value());
        for i in 0..size.div_ceil(8) {
            let word = (address & !7) + 8 * i;
            let place = Place { table: Frame::of(word), index: (word % 4096 / 8) as u16 };
            self.tables(at, |tables, ram, tell| {
                // What is narrower than a descriptor has only its own bytes in the value.
                let whole = size >= 8;
                let new = if whole { Some(value[i as usize % 2]) } else { ram.load(word) };
                if let Some(new) = new {
                    tables.store(place, new, ram, tell);
                }
            });
        }
    }

    /// After a store to a word that is watched.
    pub(crate) fn word(&mut self, cpu: Cpu, access: Access, pc: u64) {
        let pc = self.home(pc);
        let at = self.at(cpu, pc);
        let (address, bits) = (access.address & !7, 8 * (access.address & 7));
        let (size, value) = (access.size(), access.value()[0]);
        let watched = self.words.iter_mut().find(|watched| watched.address == address);
        let Some(Watched { word, value: now, .. }) = watched else { return };
        let mask = if size >= 8 { !0 } else { ((1 << (8 * size)) - 1) << bits };
        let (word, old) = (*word, *now);
        let new = old & !mask | value << bits & mask;
        *now = new;
        self.say(at, What::Word { word, address, old, new });
    }

    /// After an access of a program that is no kernel: of a guest, if its CPU runs one.
    pub(crate) fn guest_access(&mut self, cpu: Cpu, access: Access, pc: u64) {
        let at = self.at(cpu, pc);
        if !self.inside.get(usize::from(at.cpu)).is_some_and(Option::is_some) {
            return;
        }
        let Some(page) = access.physical().map(Frame::of) else { return };
        let (mapped, writable) = self.tables.maps(page);
        let store = access.is_store();
        if !mapped || store && !writable {
            self.say(at, What::Stale { page, store, mapped });
        }
    }

    /// kvmmu-live speaks; true: all code is to be translated again.
    fn message(&mut self, cpu: Cpu, pc: u64) -> bool {
        let [magic, address, len, ..] = self.registers.arguments();
        if magic != channel::MAGIC || len > channel::LENGTH_MAX {
            return false;
        }
        let bytes = qemu::read_memory(address, len as usize).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        match Message::read(&text) {
            Some(Message::Symbols(text)) => self.symbols.push(text),
            Some(Message::Ready { version, release }) => return self.ready(cpu, version, release),
            Some(Message::Mark(user)) => {
                let at = self.at(cpu, pc);
                self.say(at, What::User(user));
            }
            None => self.log.fail(format!("/init says what is no message: {text:.60}")),
        }
        false
    }

    fn ready(&mut self, cpu: Cpu, version: &str, release: &str) -> bool {
        self.symbols.complete();
        if self.arch == Arch::Arm64
            && let Some(why) = self.refuses_arm64()
        {
            self.log.fail(why);
            return false;
        }
        let code = code(self.arch, &self.ram, &self.registers);
        match Holding::prepare(&self.options.holds, &self.symbols, code) {
            Ok(holding) => self.holding = holding,
            Err(error) => self.log.fail(error),
        }
        let moved: Vec<u64> = self.holding.iter().flat_map(Holding::moved).collect();
        for patch in &self.options.patches {
            match patch.apply(&self.symbols, code, &moved) {
                Ok(done) => qemu::say(&done),
                Err(error) => self.log.fail(error),
            }
        }
        let at = self.at(cpu, 0);
        let (version, release) = (version.to_owned(), release.to_owned());
        let functions = self.symbols.recorded() as u32;
        self.say(at, What::User(User::Kernel { version, release, functions }));
        true
    }

    /// The machine ends. A recording in which something failed has no end, so nobody takes it for
    /// a whole one.
    pub(crate) fn end(mut self) {
        let events = self.log.events();
        match (self.log.failed.take(), self.log.writer.take()) {
            (None, Some(writer)) => match Writer::finish(writer) {
                Ok(_) => {
                    self.holding.iter().for_each(|holding| qemu::say(&holding.summary()));
                    qemu::say(&format!("recorded {events} events"));
                }
                Err(error) => {
                    qemu::say(&format!("failed: {}: {error}", self.options.out.display()))
                }
            },
            (failed, _) => qemu::say(&format!("failed: {}", failed.unwrap_or_default())),
        }
    }
}

/// The kernel's code, as the CPU that calls has it.
fn code<'m>(arch: Arch, ram: &'m Option<Ram>, registers: &Registers) -> Code<'m> {
    match (arch, ram) {
        (Arch::X86, Some(ram)) => {
            let levels = if registers.get("cr4") & CR4_LA57 == 0 { 4 } else { 5 };
            Code::x86(ram, registers.get("cr3"), levels)
        }
        _ => Code::arm64(),
    }
}

/// What tells the CPU and the thread that call: the CPU's own number, and the task.
type Who = (Option<u64>, Option<u64>);
