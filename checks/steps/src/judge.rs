//! Judging a recording: each event is shown to each rule.

use std::collections::BTreeMap;

use crate::event::{Event, Place, Site, User, What};
use crate::file::{Header, Reader};
use crate::functions::{self, MAKE_VM};
use crate::kernel::{Kernel, Mmu};
use crate::layout::Layout;
use crate::refused::Refused;
use crate::rules::{Found, Order, Rule, Rules};
use crate::slots::Slots;
use crate::step::Step;
use crate::threads::{Passed, Thread, Threads};
use crate::trees::{Spot, Trees};

/// So many violations are told in detail; the others are counted.
pub const TOLD: usize = 20;

/// The level of the root of a guest that is not in long mode.
const PAE_ROOT: i8 = 3;

/// A rule was broken.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Violation {
    /// Which one.
    pub rule: Rule,
    /// The number of the event at which it was.
    pub event: u64,
    /// The events that it is about, in order; the last one is that one.
    pub about: Vec<u64>,
    /// What happened.
    pub what: String,
    /// What should have come.
    pub wanted: String,
}

/// A store to a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// Where.
    pub place: Place,
    /// Where that stands.
    pub spot: Spot,
    /// What was there.
    pub old: u64,
    /// What is there now.
    pub new: u64,
    /// Which step that is.
    pub step: Step,
}

/// An event, and what is known when it happens: before it has changed anything.
#[derive(Clone, Copy, Debug)]
pub struct Now<'n> {
    /// Its number.
    pub number: u64,
    /// It.
    pub event: &'n Event,
    /// Its instruction.
    pub site: &'n Site,
    /// What it stores.
    pub stored: Option<Stored>,
    /// What its thread has passed by it.
    pub passed: Option<Passed>,
    /// Its thread, by it.
    pub thread: &'n Thread,
    /// Page tables.
    pub trees: &'n Trees,
    /// Memslots.
    pub slots: &'n Slots,
    /// The kernel.
    pub kernel: &'n Kernel,
}

impl Now<'_> {
    /// The function that it is a call of, and its arguments.
    pub fn call(&self) -> Option<(&'static str, [u64; 5])> {
        match self.event.what {
            What::Call { function, arguments } => Some((functions::name(function), arguments)),
            _ => None,
        }
    }

    /// The function that its thread returns from, and the arguments that it had.
    pub fn returned(&self) -> Option<(&'static str, [u64; 5], u64)> {
        match self.passed {
            Some(Passed::Returned(call)) => {
                Some((functions::name(call.function), call.arguments, call.number))
            }
            _ => None,
        }
    }
}

/// What came of a recording.
#[derive(Clone, Debug)]
pub struct Judged {
    /// How it was recorded.
    pub header: Header,
    /// The kernel.
    pub kernel: Kernel,
    /// Events.
    pub events: u64,
    /// Stores to descriptors, by step and function.
    pub steps: BTreeMap<(Step, String), u64>,
    /// Descriptors that the table walker changed.
    pub hardware: u64,
    /// How often each rule was applied, and broken.
    pub rules: BTreeMap<Rule, (u64, u64)>,
    /// Rules that cannot be applied to this recording, and why.
    pub left_out: Vec<(Rule, String)>,
    /// The first violations.
    pub violations: Vec<Violation>,
    /// How often orders were seen that the model calls reachable.
    pub orders: BTreeMap<Order, u64>,
}

/// Judges a recording.
///
/// # Errors
///
/// Recordings that mean nothing, and of kernels whose rules are not known.
pub fn judge(reader: &Reader) -> Result<Judged, Refused> {
    let header = reader.header().clone();
    let mut events = reader.events()?;
    let mut state = State::new(Layout::of(header.arch));
    let mut kernel = None;
    while let Some((number, event)) = events.read()? {
        if let What::User(User::Kernel { version, .. }) = &event.what {
            kernel = Some(Kernel::of(header.arch, version)?);
        }
        if let (What::User(User::Mark { op, fields, .. }), Some(kernel)) =
            (&event.what, &mut kernel)
            && op == "mmu"
        {
            kernel.set(fields);
        }
        let site = &events.sites()[event.site as usize];
        if let Some(kernel) = &kernel {
            state.see(number, &event, site, kernel);
        }
    }
    let kernel = kernel.ok_or_else(|| {
        let help = "record it with 'cargo live-qemu --steps DIR'";
        Refused::bad("the recording does not say which kernel it is of", help)
    })?;
    state.rules.end(reader.len(), header.arch);
    let left_out = state.rules.left_out(&header, &kernel);
    let Found { applied, violations, orders } = state.rules.result();
    Ok(Judged {
        events: reader.len(),
        steps: state.steps,
        hardware: state.hardware,
        rules: applied,
        left_out,
        violations,
        orders,
        header,
        kernel,
    })
}

/// Everything that is known of the machine while a recording is read.
struct State {
    trees: Trees,
    threads: Threads,
    slots: Slots,
    rules: Rules,
    steps: BTreeMap<(Step, String), u64>,
    hardware: u64,
}

impl State {
    fn new(layout: Layout) -> State {
        State {
            trees: Trees::new(layout),
            threads: Threads::default(),
            slots: Slots::default(),
            rules: Rules::default(),
            steps: BTreeMap::new(),
            hardware: 0,
        }
    }

    fn see(&mut self, number: u64, event: &Event, site: &Site, kernel: &Kernel) {
        let passed = self.threads.see(number, event);
        let stored = self.stored(&event.what, kernel);
        if let Some(stored) = stored {
            let function = site.function.split('.').next().unwrap_or_default().to_owned();
            *self.steps.entry((stored.step, function)).or_default() += 1;
        }
        self.hardware += u64::from(matches!(event.what, What::Hardware { .. }));
        if let Some(thread) = self.threads.get(event.thread) {
            let (trees, slots) = (&self.trees, &self.slots);
            let now = Now { number, event, site, stored, passed, thread, trees, slots, kernel };
            self.rules.see(&now);
            match now.call() {
                Some((name, _)) if MAKE_VM.contains(&name) => self.slots.clear(),
                Some(("kvm_pgtable_stage2_destroy", [pgtable, ..])) => self.trees.destroy(pgtable),
                _ => {}
            }
            if let (Some(stored), Some(map)) = (stored, thread.inside("kvm_pgtable_stage2_map")) {
                self.trees.name(map.arguments[0], stored.spot.root);
            }
        }
        self.trees.see(&event.what);
        if let What::User(user) = &event.what {
            self.slots.see(user);
        }
    }

    fn stored(&self, what: &What, kernel: &Kernel) -> Option<Stored> {
        let What::Store { place, old, new } = *what else { return None };
        let spot = self.trees.spot(place)?;
        if kernel.mmu == Mmu::Shadow && spot.level == PAE_ROOT && spot.root == place.table {
            // `pae_root` of a vCPU: its four roots, as CR3 is one, and no SPTEs.
            return None;
        }
        let step = Step::of(self.trees.layout, spot.level, old, new);
        Some(Stored { place, spot, old, new, step })
    }
}
