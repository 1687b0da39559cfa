//! A scenario as a program of the simulator.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kvmmu_model::arm64::{Dsb, TlbiScope};
use kvmmu_model::{Guard, GuardSet, Object, Tag};
use kvmmu_scenarios::outcome::Outcome;
use kvmmu_scenarios::scenario::{Arch, IndirectFastFault};
use kvmmu_scenarios::{Observer, Scenario, World};

use super::hardware::{self, Walkers};
use super::names::fixed_names;
use super::shadow;
use crate::machine::platform::{Shadow, Sim, Stage2};
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
pub type Body<A = Shadow> = fn(&World<Sim<A>>);

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
            Forgotten::Tlbs => !shadow::entry_flushes(self.without),
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
        let kept = Forgotten::ALL.into_iter().filter(|what| self.remembers(*what));
        kept.filter_map(Forgotten::object).for_each(|object| platform.keep(object));
        match self.scenario.profile.arch() {
            Arch::X86 => Box::new(self.on(platform, self.bodies.clone())),
            Arch::Arm64 => {
                assert!(self.bodies.is_empty(), "bodies are of the MMU of shadow pages");
                Box::new(self.on(&platform.walking::<Stage2>(), Vec::new()))
            }
        }
    }
}

impl Race {
    fn on<A: Walkers>(&self, platform: &Sim<A>, bodies: Vec<(usize, Body<A>)>) -> RaceInstance<A> {
        let scenario = self.scenario.clone();
        let mut world = World::new(platform, &scenario);
        if self.record.is_some() {
            world.record_harvests();
        }
        let forgets_tlbs = !self.remembers(Forgotten::Tlbs);
        RaceInstance { world, scenario, record: self.record.clone(), bodies, forgets_tlbs }
    }
}

/// A scenario's world on a machine.
struct RaceInstance<A: Walkers> {
    world: World<Sim<A>>,
    scenario: Scenario,
    record: Option<Record>,
    bodies: Vec<(usize, Body<A>)>,
    forgets_tlbs: bool,
}

impl<A: Walkers> Instance for RaceInstance<A> {
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
        A::unread(&self.world, self.forgets_tlbs, forget);
    }
    fn observer(&self) -> Option<&dyn Observer> {
        Some(&self.world)
    }
    fn tlbi(&self, scope: TlbiScope) {
        A::tlbi(&self.world, scope);
    }
    fn dsb(&self, dsb: Dsb) {
        A::dsb(&self.world, dsb);
    }
    fn renames(&self) -> Object {
        A::RENAMES
    }
    fn object_names(&self) -> Vec<(Tag, String)> {
        let mut names = A::table_names(&self.world, &self.scenario);
        names.extend(fixed_names(&self.scenario));
        names
    }
}
