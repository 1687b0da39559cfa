//! What becomes of what QEMU tells: events, in a file.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;

use kvmmu_steps::event::{Arch, Event, Frame, Place, User, What, Word};
use kvmmu_steps::file::{Header, Writer};
use kvmmu_steps::functions;

use crate::channel::{self, Message};
use crate::kind::Kind;
use crate::options::Options;
use crate::qemu::{self, Access, Cpu, Info, Register, Site};
use crate::ram::Ram;
use crate::symbols::Symbols;
use crate::tables::Tables;
use crate::{KERNEL, arm64, watch};

/// HCR_EL2.TGE: the host is what EL0 belongs to, and TLBIs of EL1 are its own.
const HCR_TGE: u64 = 1 << 27;
/// The address in VTTBR_EL2.
const BADDR: u64 = 0x0000_ffff_ffff_fffe;

/// Everything that is known.
#[derive(Debug)]
pub(crate) struct Recorder {
    log: Log,
    options: Options,
    ram: Option<Ram>,
    registers: HashMap<String, Register>,
    symbols: Symbols,
    tables: Tables,
    /// Locks that are watched, by address: their values.
    words: Vec<(u64, u64)>,
    /// CPUs that run a guest.
    inside: Vec<bool>,
    /// How far virtual addresses of descriptors are from physical ones.
    linear: Option<u64>,
}

/// The file, and the numbers that things have in it.
#[derive(Debug)]
struct Log {
    writer: Option<Writer<BufWriter<File>>>,
    /// The first error of writing.
    failed: Option<String>,
    sites: HashMap<u64, u32>,
    threads: HashMap<u64, u32>,
    /// The thread that was seen last on each CPU.
    running: Vec<u32>,
    /// What tells CPUs apart.
    cpus: Vec<u64>,
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
    pub(crate) fn new(info: &Info) -> Result<Recorder, String> {
        if info.target != "aarch64" {
            return Err(format!("a machine of {}: only aarch64 is known", info.target));
        }
        let arch = Arch::Arm64;
        let options = Options::read(&info.options)?;
        let header = Header {
            arch,
            cpus: info.cpus,
            schedule: options.schedule,
            exact: !options.threads,
            guest: options.guest,
        };
        let path = options.out.display();
        let file = File::create(&options.out).map_err(|error| format!("{path}: {error}"))?;
        let writer = Writer::new(BufWriter::with_capacity(1 << 20, file), &header);
        let writer = writer.map_err(|error| format!("{path}: {error}"))?;
        let log = Log {
            writer: Some(writer),
            failed: None,
            sites: HashMap::new(),
            threads: HashMap::new(),
            running: Vec::new(),
            cpus: Vec::new(),
        };
        Ok(Recorder {
            log,
            options,
            ram: None,
            registers: HashMap::new(),
            symbols: Symbols::new(arch),
            tables: Tables::new(arch),
            words: Vec::new(),
            inside: Vec::new(),
            linear: None,
        })
    }

    /// The first CPU is there, and so is the machine's memory.
    pub(crate) fn begin(&mut self, registers: &[Register]) {
        if !self.registers.is_empty() {
            return;
        }
        self.registers = registers.iter().map(|r| (r.name.clone(), r.clone())).collect();
        match Ram::map(&self.options.ram, Arch::Arm64) {
            Ok(ram) => self.ram = Some(ram),
            Err(error) => self.log.fail(error),
        }
        for name in ["x0", "VTTBR_EL2", "VTCR_EL2", "HCR_EL2", "ESR_EL2", "SP_EL0", "TPIDR_EL2"] {
            if !self.registers.contains_key(name) {
                self.log.fail(format!("this QEMU has no register {name}"));
            }
        }
    }

    /// True if accesses of guests are looked at.
    pub(crate) fn looks_at_guests(&self) -> bool {
        self.options.guest
    }

    fn register(&self, name: &str) -> u64 {
        self.registers.get(name).map_or(0, Register::read)
    }

    fn x(&self, number: u8) -> u64 {
        if number == 31 { 0 } else { self.register(&format!("x{number}")) }
    }

    /// What an instruction of the kernel is, now that its functions are known.
    pub(crate) fn kind(&self, pc: u64, kind: Kind) -> Kind {
        if kind == Kind::Ret {
            return self.symbols.inside(pc).map_or(Kind::Other, Kind::Return);
        }
        if kind == Kind::Other && self.symbols.is(pc, "__guest_exit") {
            return Kind::GuestExit;
        }
        match self.symbols.begins(pc) {
            Some(function) if kind == Kind::Other => Kind::Call(function),
            _ => kind,
        }
    }

    /// Where this is. Where CPUs have no threads of their own, QEMU's number is that of the CPU
    /// that translated the code; a VHE kernel has the offset of its per-CPU data in TPIDR_EL2.
    fn at(&mut self, cpu: Cpu, pc: u64) -> At {
        let cpu = match self.options.threads {
            true => cpu.0 as u8,
            false => {
                let own = self.register("TPIDR_EL2");
                self.log.cpu(own)
            }
        };
        // A VHE kernel has the task in SP_EL0; user space and guests have their stack there.
        let task = Some(self.register("SP_EL0")).filter(|task| *task >= KERNEL);
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
            Kind::Root(register) => self.root(at, register),
            Kind::Call(function) => self.call(at, function),
            _ if self.tables.is_empty() => {}
            Kind::Tlbi(word) => self.tlbi(at, word),
            Kind::Barrier(barrier) => self.say(at, What::Barrier(barrier)),
            Kind::Eret => self.eret(at),
            Kind::GuestExit => self.guest_exit(at),
            Kind::Zero(register) => self.zero(at, register),
            Kind::Return(function) => {
                let value = self.x(0);
                self.say(at, What::Return { function, value });
            }
            Kind::Message | Kind::Ret | Kind::Other => {}
        }
        false
    }

    /// `msr vttbr_el2`: names a root.
    fn root(&mut self, at: At, register: u8) {
        let root = self.x(register) & BADDR;
        if root == 0 {
            return;
        }
        let vtcr = self.register("VTCR_EL2");
        let geometry = (root_level(vtcr), root_pages(vtcr));
        self.tables(at, |tables, ram, tell| tables.root(Frame::of(root), geometry, ram, tell));
    }

    fn call(&mut self, at: At, function: u8) {
        let arguments: [u64; 5] = std::array::from_fn(|n| self.x(n as u8));
        if functions::name(function) == "kvm_init_stage2_mmu" {
            // mmu_lock is the first member of struct kvm.
            let lock = arguments[0] & !7;
            // One that was there before has gone with its VM.
            self.words.retain(|(of, _)| *of != lock);
            watch::word(self.words.len(), lock);
            self.words.push((lock, 0));
        }
        self.say(at, What::Call { function, arguments });
    }

    fn tlbi(&mut self, at: At, word: u32) {
        if self.register("HCR_EL2") & HCR_TGE != 0 && !arm64::is_el2(word) {
            // The host's own.
            return;
        }
        self.audit(at);
        let vttbr = self.register("VTTBR_EL2");
        let (op, operand) = (arm64::tlbi(word), self.x(arm64::register(word)));
        let (root, id) = (Frame::of(vttbr & BADDR), (vttbr >> 48) as u32);
        self.say(at, What::Tlbi { op, operand, root, id });
    }

    fn eret(&mut self, at: At) {
        if self.register("HCR_EL2") & HCR_TGE != 0 {
            return;
        }
        self.audit(at);
        let (vttbr, pc) = (self.register("VTTBR_EL2"), self.register("ELR_EL2"));
        let (root, id) = (Frame::of(vttbr & BADDR), (vttbr >> 48) as u32);
        self.say(at, What::Enter { root, id, vcpu: 0, flushes: false, pc });
        self.is_inside(at.cpu, true);
    }

    fn guest_exit(&mut self, at: At) {
        self.audit(at);
        self.is_inside(at.cpu, false);
        let (reason, address) = (self.register("ESR_EL2"), self.register("FAR_EL2"));
        let ipa = (self.register("HPFAR_EL2") & 0xfff_ffff_fff0) << 8;
        self.say(at, What::Exit { reason, address, ipa });
    }

    fn is_inside(&mut self, cpu: u8, inside: bool) {
        let cpu = usize::from(cpu);
        if self.inside.len() <= cpu {
            self.inside.resize(cpu + 1, false);
        }
        self.inside[cpu] = inside;
    }

    /// Before a DC ZVA, which QEMU does not report as a store.
    fn zero(&mut self, at: At, register: u8) {
        let Some(linear) = self.linear else { return };
        let page = Frame::of(self.x(register).wrapping_sub(linear));
        if self.tables.has(page) {
            self.tables(at, |tables, _, tell| tables.reuse(page, tell));
        }
    }

    /// After a store to a page that is watched.
    pub(crate) fn store(&mut self, cpu: Cpu, access: Access, address: u64, pc: u64) {
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
        let at = self.at(cpu, pc);
        let (address, bits) = (access.address & !7, 8 * (access.address & 7));
        let (size, value) = (access.size(), access.value()[0]);
        let Some((_, word)) = self.words.iter_mut().find(|(of, _)| *of == address) else { return };
        let mask = if size >= 8 { !0 } else { ((1 << (8 * size)) - 1) << bits };
        let old = *word;
        *word = old & !mask | value << bits & mask;
        let new = *word;
        self.say(at, What::Word { word: Word::MmuLock, address, old, new });
    }

    /// After an access of a program that is no kernel: of a guest, if its CPU runs one.
    pub(crate) fn guest_access(&mut self, cpu: Cpu, access: Access, pc: u64) {
        let at = self.at(cpu, pc);
        if !self.inside.get(usize::from(at.cpu)).copied().unwrap_or(false) {
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
        let (magic, address, len) = (self.x(0), self.x(1), self.x(2));
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
        for patch in &self.options.patches {
            match patch.apply(&self.symbols) {
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
            (None, Some(writer)) => match writer.finish() {
                Ok(_) => qemu::say(&format!("recorded {events} events")),
                Err(error) => {
                    qemu::say(&format!("failed: {}: {error}", self.options.out.display()))
                }
            },
            (failed, _) => qemu::say(&format!("failed: {}", failed.unwrap_or_default())),
        }
    }
}

impl Log {
    fn fail(&mut self, error: String) {
        self.failed.get_or_insert(error);
    }

    fn events(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::events)
    }

    fn cpu(&mut self, own: u64) -> u8 {
        let seen = self.cpus.iter().position(|cpu| *cpu == own);
        seen.unwrap_or_else(|| {
            self.cpus.push(own);
            self.cpus.len() - 1
        }) as u8
    }

    /// The thread of a task; where it cannot be seen, the last one on that CPU.
    fn thread(&mut self, cpu: u8, task: Option<u64>) -> u32 {
        let cpu = usize::from(cpu);
        if self.running.len() <= cpu {
            self.running.resize(cpu + 1, 0);
        }
        if let Some(task) = task {
            let next = self.threads.len() as u32;
            self.running[cpu] = *self.threads.entry(task).or_insert(next);
        }
        self.running[cpu]
    }

    fn say(&mut self, symbols: &Symbols, at: At, what: What) -> u64 {
        let Some(writer) = &mut self.writer else { return 0 };
        let mut written = Ok(0);
        let next = self.sites.len() as u32;
        let site = *self.sites.entry(at.pc).or_insert_with(|| {
            written = writer.site(symbols.site(at.pc)).map(|()| 0);
            next
        });
        let event = Event { cpu: at.cpu, thread: at.thread, site, what };
        match written.and_then(|_: u64| writer.event(event)) {
            Ok(number) => number,
            Err(error) => {
                self.failed.get_or_insert(error.to_string());
                0
            }
        }
    }
}

/// The level of a root, from VTCR_EL2.SL0 (4 KiB pages).
fn root_level(vtcr: u64) -> i8 {
    2 - (vtcr >> 6 & 3).min(2) as i8
}

/// How many pages a root has: so many are concatenated.
fn root_pages(vtcr: u64) -> u64 {
    let bits = 64 - (vtcr & 63) as u32;
    let index = bits.saturating_sub(12 + 9 * (3 - root_level(vtcr)) as u32);
    1 << index.saturating_sub(9).min(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_of_forty_bits_are_two_pages_of_level_one() {
        let vtcr = 1 << 6 | 24;
        assert_eq!((root_level(vtcr), root_pages(vtcr)), (1, 2));
        assert_eq!((root_level(0), root_pages(1 << 6 | 25)), (2, 1));
    }
}
