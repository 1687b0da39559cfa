//! A scenario as a program of the simulator.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kvmmu_model::arm64::{Dsb, TlbiScope};
use kvmmu_model::x86::mmu::Header;
use kvmmu_model::x86::mmu::paging::{PG_LEVEL_4K, PT_ENTRIES, ROOT_LEVEL, SHADOW_PAGES};
use kvmmu_model::x86::mmu::walk::GuestWalk;
use kvmmu_model::{Gfn, Guard, GuardSet, Gva, Object, SpId, Tables, Tag};
use kvmmu_scenarios::machine::PAGES;
use kvmmu_scenarios::ops::{Address, HostOp, Op, TableEntry, UserOp, VcpuOp};
use kvmmu_scenarios::outcome::Outcome;
use kvmmu_scenarios::scenario::{IndirectFastFault, Paging, read_gpte};
use kvmmu_scenarios::{Observer, Scenario, World};

use super::{hardware, tlbi};
use crate::machine::platform::Sim;
use crate::machine::word::SimWord;
use crate::record::goal::Goal;
use crate::record::rule::Rule;
use crate::run::program::{Instance, Program, Story};

/// Where the executions of a [`Race`] leave their outcomes, and how often each was left.
pub type Record = Arc<Mutex<BTreeMap<Outcome, u64>>>;

/// A scenario with some guards removed.
#[derive(Clone, Debug)]
pub struct Race {
    scenario: Scenario,
    without: GuardSet,
    record: Option<Record>,
    ignored_checkpoint: Option<(&'static str, u32)>,
    remembers: Vec<Forgotten>,
    bodies: Vec<(usize, Body)>,
}

/// What is no part of the state where nobody will read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forgotten {
    /// The requests to a vCPU that does not run its guest again, and its TLB.
    Requests,
    /// TLBs of CPUs that flush them before they run guest code.
    Tlbs,
    /// Dirty logs that nobody fetches again.
    DirtyBitmap,
    /// Dirty flags of host pages that nobody reclaims any more.
    PageFlags,
    /// `sp->gfns` of entries that map nothing.
    Gfns,
}

impl Forgotten {
    /// All of these.
    pub const ALL: [Forgotten; 5] = {
        use Forgotten::{DirtyBitmap, Gfns, PageFlags, Requests, Tlbs};
        [Requests, Tlbs, DirtyBitmap, PageFlags, Gfns]
    };

    /// The words that it is about; TLBs are no words.
    fn object(self) -> Option<Object> {
        match self {
            Forgotten::Requests => Some(Object::VcpuRequests),
            Forgotten::Tlbs => None,
            Forgotten::DirtyBitmap => Some(Object::DirtyBitmap),
            Forgotten::PageFlags => Some(Object::PageFlags),
            Forgotten::Gfns => Some(Object::Gfns),
        }
    }
}

/// What a thread does to the world of a scenario.
pub type Body = fn(&World<Sim>);

impl Race {
    /// This scenario without these guards.
    pub fn new(scenario: Scenario, without: GuardSet) -> Race {
        let (remembers, bodies) = (Vec::new(), Vec::new());
        Race { scenario, without, record: None, ignored_checkpoint: None, remembers, bodies }
    }

    /// The same, and a thread runs `body` in place of its program: steps for which there is no
    /// operation.
    #[must_use]
    pub fn with_body(mut self, thread: usize, body: Body) -> Race {
        self.bodies.push((thread, body));
        self
    }

    /// The same, and each execution that ends leaves its outcome in `record`.
    #[must_use]
    pub fn recording(self, record: &Record) -> Race {
        Race { record: Some(Record::clone(record)), ..self }
    }

    /// The same, and the checkpoint in this file and line has no effect.
    #[must_use]
    pub fn ignoring_checkpoint(self, file: &'static str, line: u32) -> Race {
        Race { ignored_checkpoint: Some((file, line)), ..self }
    }

    /// The same, and this is part of the state whether somebody will read it or not.
    #[must_use]
    pub fn remembering(mut self, what: &[Forgotten]) -> Race {
        self.remembers.extend(what);
        self
    }

    /// The scenario.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// What its own expectation looks for; any violation if it expects none.
    pub fn goal(&self) -> Goal {
        let expect = self.scenario.expects.iter().find(|e| e.without == self.without);
        expect.map_or(Goal::ANY, |e| Goal {
            rule: e.property.map(Rule::from),
            story: e.story.as_ref().map(|witness| witness.story.clone()),
            nesting: None,
        })
    }
}

impl Race {
    /// True if it is part of the state whether somebody will read it or not.
    fn remembers(&self, what: Forgotten) -> bool {
        let without = |guard| self.without.contains(guard);
        let is_read = match what {
            // A fast fault on an indirect page reads it without mmu_lock.
            Forgotten::Gfns => {
                without(Guard::FastFaultDirectOnly)
                    || self.scenario.indirect == IndirectFastFault::Pinned
            }
            Forgotten::DirtyBitmap => without(Guard::MarkDirtyAtomic),
            Forgotten::Tlbs => !hardware::entry_flushes(self.without),
            Forgotten::Requests | Forgotten::PageFlags => false,
        };
        // A body may do what no operation of the scenario does.
        is_read || !self.bodies.is_empty() || self.remembers.contains(&what)
    }
}

impl Program for Race {
    fn threads(&self) -> Vec<String> {
        self.scenario.threads.iter().map(|t| t.name.clone()).collect()
    }
    fn without(&self) -> GuardSet {
        self.without
    }
    fn lock_checks(&self) -> bool {
        self.scenario.lock_checks
    }
    fn ignored_checkpoint(&self) -> Option<(&'static str, u32)> {
        self.ignored_checkpoint
    }
    fn witnesses(&self) -> Vec<Story> {
        self.scenario.sometimes.iter().map(|witness| witness.story.clone()).collect()
    }
    fn build(&self, platform: &Sim) -> Box<dyn Instance> {
        let scenario = self.scenario.clone();
        let kept = Forgotten::ALL.into_iter().filter(|what| self.remembers(*what));
        kept.filter_map(Forgotten::object).for_each(|object| platform.keep(object));
        let mut world = World::new(platform, &scenario);
        if self.record.is_some() {
            world.record_harvests();
        }
        let (record, bodies) = (self.record.clone(), self.bodies.clone());
        let forgets_tlbs = !self.remembers(Forgotten::Tlbs);
        Box::new(RaceInstance { world, scenario, record, bodies, forgets_tlbs })
    }
}

/// A scenario's world on a machine.
struct RaceInstance {
    world: World<Sim>,
    scenario: Scenario,
    record: Option<Record>,
    bodies: Vec<(usize, Body)>,
    forgets_tlbs: bool,
}

impl Instance for RaceInstance {
    fn run(&self, thread: usize) {
        match self.bodies.iter().find(|(of, _)| *of == thread) {
            Some((_, body)) => body(&self.world),
            None => self.world.run_thread(&self.scenario, thread),
        }
    }
    fn stop(&self) {
        self.world.run_stop(&self.scenario);
        if let Some(record) = &self.record {
            let outcome = self.world.outcome(&self.scenario);
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            *record.entry(outcome).or_insert(0) += 1;
        }
    }
    fn choices(&self, request: u64) -> u8 {
        hardware::choices(&self.world, request)
    }
    fn unread(&self, forget: &mut dyn FnMut(u16)) {
        hardware::unread(&self.world, self.forgets_tlbs, forget);
    }
    fn observer(&self) -> Option<&dyn Observer> {
        Some(&self.world)
    }
    fn tlbi(&self, scope: TlbiScope) {
        tlbi::begin(&self.world, scope);
    }
    fn dsb(&self, dsb: Dsb) {
        tlbi::complete(&self.world, dsb);
    }
    fn object_names(&self) -> Vec<(Tag, String)> {
        let mmu = &self.world.vm.mmu;
        let names = |sp| page_names(&self.scenario, sp, mmu.header(SpId(sp as u8), SimWord::peek));
        let pages = (0..SHADOW_PAGES).flat_map(names);
        pages.chain(fixed_names(&self.scenario)).collect()
    }
}

/// What the entries of a shadow page are called: by what they map.
fn page_names(scenario: &Scenario, sp: usize, header: Header) -> Vec<(Tag, String)> {
    let gfn = header.gfn().0;
    let indirect_root = scenario.paging != Paging::Shadow
        && scenario.threads.iter().any(|t| t.paging == Paging::Shadow);
    let (page, entry): (String, Box<dyn Fn(usize) -> String>) = match header.level() {
        0 => (format!("sp{sp}"), Box::new(|i| format!("sp{sp}[{i}]"))),
        // Where some vCPUs have paging on and some off, there are roots of both kinds.
        ROOT_LEVEL if indirect_root && !header.is_direct() => {
            (format!("sp[root,gfn{gfn}]"), Box::new(|i| format!("root.gfn{gfn}[{i}]")))
        }
        ROOT_LEVEL => ("sp[root]".to_owned(), Box::new(|i| format!("root[{i}]"))),
        level if level > PG_LEVEL_4K => {
            let entry = move |i: usize| format!("spte{level}[gfn{gfn}][{i}]");
            (format!("sp{level}[gfn{gfn}]"), Box::new(entry))
        }
        _ if header.is_direct() => {
            let last = gfn + PT_ENTRIES as u64 - 1;
            let entry = move |i: usize| format!("spte[gfn{}]", gfn + i as u64);
            (format!("sp[gfn{gfn}..{last}]"), Box::new(entry))
        }
        _ => match first_gva(scenario, gfn) {
            Some(gva) => {
                (format!("sp[gfn{gfn}]"), Box::new(move |i| format!("spte[gva{}]", gva + i as u64)))
            }
            None => (format!("sp[gfn{gfn}]"), Box::new(|i| format!("spte[gfn{gfn}[{i}]]"))),
        },
    };
    let mut names = vec![(Tag::nth(Object::SpHeader, sp), format!("{page}->role"))];
    for i in 0..PT_ENTRIES {
        let name = entry(i);
        let gfns = match name.strip_prefix("spte") {
            Some(place) => format!("gfns{place}"),
            None => format!("gfns.{name}"),
        };
        names.push((Tag::at(Object::Spte, sp, i), name));
        names.push((Tag::at(Object::Gfns, sp, i), gfns));
    }
    names
}

/// The first virtual page that the guest table in this frame maps, if the tables above it say so in
/// one place and no thread changes those.
fn first_gva(scenario: &Scenario, table: u64) -> Option<u64> {
    let firsts = (0..PAGES as u64).step_by(PT_ENTRIES);
    let leaf = |gva: u64| scenario.leaf_table(Gva(gva));
    let mut pages = firsts.clone().filter(|gva| leaf(*gva) == Some(Gfn(table)));
    let first = pages.next().filter(|_| pages.next().is_none())?;
    let root = scenario.guest_root?;
    let is_above = |gfn| {
        let on_path = |gva| {
            let (mut above, mut level) = (false, ROOT_LEVEL);
            GuestWalk::new(root, Gva(gva), |table, index| {
                above |= table == gfn && level > PG_LEVEL_4K;
                level -= 1;
                read_gpte(&scenario.guest_tables, table, index)
            });
            above
        };
        firsts.clone().any(on_path)
    };
    let edits = |op| match op {
        Op::Vcpu(VcpuOp::EmulateGpte(TableEntry { table: gfn, .. }, _)) => is_above(gfn),
        Op::Vcpu(op) => op.stores_gpte().is_some_and(|(entry, _)| match entry.table {
            Address::Gfn(gfn) => is_above(gfn),
            Address::Gva(_) => true,
        }),
        _ => false,
    };
    let edited = scenario.threads.iter().flat_map(|t| t.run.ops()).any(|(_, op)| edits(op));
    (!edited).then_some(first)
}

/// The names that do not change in a run.
fn fixed_names(scenario: &Scenario) -> Vec<(Tag, String)> {
    let mut names = Vec::new();
    if scenario.slots.len() == 1 {
        names.push((Tag::nth(Object::DirtyBitmap, 0), "dirty_bitmap".to_owned()));
    }
    for backing in &scenario.backing {
        let table = scenario.guest_tables.iter().any(|t| t.gfn == backing.gfn);
        let stays = !scenario.threads.iter().flat_map(|t| t.run.ops()).any(|(_, op)| {
            matches!(op, Op::Host(HostOp::SwapOut(gfn)) if gfn == backing.gfn)
                || matches!(op, Op::User(UserOp::MadvisePageout(gfn)) if gfn == backing.gfn)
        });
        if let (true, Some(pfn)) = (table && stays, backing.pfn) {
            let name = format!("gptes[gfn{}]", backing.gfn.0);
            names.push((Tag::nth(Object::Page, pfn.0 as usize), name));
        }
    }
    names
}
