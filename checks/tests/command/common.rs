//! A run made by hand, and a machine that gives answers made by hand: what tests of reports and of
//! the command need without a search.

use std::sync::Arc;

use kvmmu::cli::exit::Failure;
use kvmmu::lab::load;
use kvmmu::lab::replayed::{Example, Replayed};
use kvmmu::lab::run::{Machine, Minimised, Progress};
use kvmmu::lab::search::Search;
use kvmmu::lab::variant::{Goal, Variant};
use kvmmu_model::{Guard, GuardSet, LockClass, Mark, Mode, Object, Tag};
use kvmmu_scenarios::Property;
use kvmmu_scenarios::lockdep::{LockOrders, Nesting};
use kvmmu_sim::Actor;
use kvmmu_sim::event::{Event, What, Write};
use kvmmu_sim::outcome::{Found, Outcome, Reason, Seen, Stats, Verdict};
use kvmmu_sim::schedule::{Move, Schedule};

/// The values that the SPTE of the hand-made run takes, in the legacy layout.
pub(crate) mod spte {
    /// pfn0 r-x H M, accessed and dirty.
    pub(crate) const R110: u64 = 0xc65;
    /// The same and writable.
    pub(crate) const W111: u64 = 0xc67;
}

/// A built-in scenario without `guards`.
pub(crate) fn variant(name: &str, guards: &str) -> Variant {
    let builtin = load::builtin(1).expect("the built-in scenarios load");
    let scenario = builtin.iter().find(|s| s.name == name).expect("it is built in");
    Variant::of(scenario, None, kvmmu::lab::variant::parse_guards(guards).expect("guards exist"))
}

/// The variant of the document's first case.
pub(crate) fn aba() -> Variant {
    variant("aba-indirect", "fast-fault-direct-only,lockless-walk-mode")
}

/// Threads of `aba-indirect`.
const V0: u8 = 0;
const V1: u8 = 1;
const HOST: u8 = 2;
const USER: u8 = 3;

/// Builds events.
#[derive(Default)]
struct Script {
    events: Vec<Event>,
    step: u32,
}

impl Script {
    /// A step of `thread` in `function`, with mmu_lock held or not.
    fn step(&mut self, thread: u8, function: &'static str, locked: bool, whats: Vec<What>) {
        self.step += 1;
        let held = if locked { vec![Tag::lock(LockClass::MmuLock.one())] } else { Vec::new() };
        for what in whats {
            self.events.push(Event {
                step: self.step,
                thread,
                stack: vec![function],
                file: "model/src/mmu/example.rs",
                line: 100 + self.step,
                held: held.clone(),
                what,
            });
        }
    }
}

/// The document's first case, step by step.
pub(crate) fn aba_events() -> Vec<Event> {
    let pte = Tag::at(Object::Spte, 1, 0);
    let log = Tag::nth(Object::DirtyBitmap, 0);
    let lock = Tag::lock(LockClass::MmuLock.one());
    let write = |object, how, old, new| What::Write { object, how, old, new };
    let note = |text: &str| What::Note(text.to_owned());
    let mut s = Script::default();
    s.step(
        V0,
        "vcpu_enter_guest",
        false,
        vec![What::Load { object: Tag::nth(Object::VcpuRequests, 0), value: 0 }],
    );
    s.step(
        V0,
        "fast_page_fault",
        false,
        vec![What::Load { object: pte, value: spte::R110 }, What::Mark(Mark::FastFaultRead)],
    );
    s.step(
        HOST,
        "kvm_unmap_rmapp",
        true,
        vec![What::Acquire { object: lock, mode: Mode::Exclusive }],
    );
    s.step(
        HOST,
        "mmu_spte_clear_track_bits",
        true,
        vec![write(pte, Write::Swap, spte::R110, 0), What::Mark(Mark::SpteZapped)],
    );
    s.step(
        HOST,
        "kvm_flush_remote_tlbs",
        true,
        vec![
            write(Tag::nth(Object::VcpuRequests, 0), Write::Or, 0, 1),
            What::Release { object: lock },
        ],
    );
    s.step(
        HOST,
        "swap-out",
        false,
        vec![
            write(Tag::one(Object::PageFlags), Write::Store, 0, 1),
            note("host: pfn0 is free again"),
            What::Mark(Mark::HostUnmapped),
        ],
    );
    s.step(
        V1,
        "kvm_mmu_pte_write",
        true,
        vec![
            write(Tag::nth(Object::Page, 1), Write::Store, 0xc1, 0xc2),
            note("guest: gpte gfn3[0] = gfn2"),
        ],
    );
    s.step(
        V1,
        "set_spte",
        true,
        vec![
            write(pte, Write::Store, 0, spte::W111),
            What::Mark(Mark::SpteSet),
            write(log, Write::Or, 0b00, 0b10),
        ],
    );
    s.step(
        USER,
        "kvm_get_dirty_log_protect",
        true,
        vec![write(log, Write::Swap, 0b10, 0), What::Mark(Mark::Harvest)],
    );
    s.step(
        USER,
        "spte_write_protect",
        true,
        vec![write(pte, Write::Cmpxchg, spte::W111, spte::R110), What::Mark(Mark::WriteProtected)],
    );
    s.step(
        USER,
        "copy-harvested",
        false,
        vec![note("gfn2 is copied"), What::Mark(Mark::PageCopied)],
    );
    s.step(
        V0,
        "fast_page_fault",
        false,
        vec![write(pte, Write::Cmpxchg, spte::R110, spte::W111), What::Mark(Mark::FastFaultFixed)],
    );
    s.step(
        V0,
        "mark_page_dirty",
        false,
        vec![write(log, Write::Or, 0, 1), What::Mark(Mark::MarkDirty)],
    );
    s.step(
        V0,
        "write",
        false,
        vec![
            write(Tag::nth(Object::Page, 0), Write::Hardware, 7, 8),
            note("the store lands in gfn2"),
            What::Mark(Mark::GuestWrite),
        ],
    );
    s.step(
        Event::STOP,
        "copy-harvested",
        false,
        vec![
            note("gfn1 is copied"),
            What::Violation { rule: Property::Migration.into(), detail: ABA_DETAIL.to_owned() },
        ],
    );
    s.events
}

/// What the hand-made run loses.
pub(crate) const ABA_DETAIL: &str =
    "gfn2 was written and is not in the log: the destination has 7, not 8.";

/// The same schedule with every guard: the fast fault is not even tried.
pub(crate) fn aba_twin() -> Replayed {
    let mut events: Vec<Event> = aba_events().into_iter().take_while(|e| e.step < 2).collect();
    let mut s = Script { events: Vec::new(), step: 1 };
    let lock = Tag::lock(LockClass::MmuLock.one());
    s.step(
        V0,
        "FNAME(page_fault)",
        true,
        vec![What::Acquire { object: lock, mode: Mode::Exclusive }],
    );
    events.append(&mut s.events);
    let stuck = Some((2, "mmu_lock is taken".to_owned()));
    Replayed { events, stuck, ..Replayed::default() }
}

/// The schedule of the hand-made run.
pub(crate) fn aba_schedule() -> Schedule {
    let mut moves = Vec::new();
    let mut last = 0;
    for event in aba_events() {
        if event.step != last && event.thread != Event::STOP {
            moves.push(Move { actor: Actor::Thread(event.thread), choice: 0 });
        }
        last = event.step;
    }
    Schedule(moves)
}

/// The counterexample of the hand-made run.
pub(crate) fn aba_found() -> Found {
    Found {
        rule: Property::Migration.into(),
        detail: ABA_DETAIL.to_owned(),
        schedule: aba_schedule(),
        story: true,
    }
}

/// An outcome with everything seen.
pub(crate) fn outcome(verdict: Verdict) -> Outcome {
    Outcome {
        verdict,
        others: Vec::new(),
        seen: Seen {
            marks: u128::MAX,
            witnesses: u64::MAX,
            asked: Guard::ALL.iter().copied().collect(),
        },
        locks: LockOrders::default(),
        stats: Stats {
            executions: 3,
            states: 4711,
            transitions: 9000,
            depth_max: 40,
            ..Stats::default()
        },
    }
}

/// A race of one's own: nothing says that a run comes near it.
pub(crate) const FLUSH: &str = r#"title   = "Does GET_DIRTY_LOG have to flush TLBs?"
source  = "none"
about   = "Nothing."
paging  = "direct"
spte    = "ept"
slot    = [{ gfn = 0, pages = 1, log = true }]
map     = { gfn0 = { pfn = 0, spte = "110" } }
thread  = [{ name = "vcpu0", run = ["write gfn0", "write gfn0"] },
           { name = "user", run = ["get-dirty-log slot0", "copy-harvested"] }]
at-stop = { run = ["get-dirty-log slot0", "copy-harvested"] }
check   = { always = ["migration"] }
"#;

/// A machine whose answers are made by hand: it finds what is expected, but for what it is told.
pub(crate) struct Fake {
    /// Scenarios that give this outcome, whatever is expected of them.
    pub(crate) special: Vec<(&'static str, Outcome)>,
    /// A scenario that cannot be explored.
    pub(crate) failing: Option<&'static str>,
    /// What every replay gives.
    pub(crate) events: Vec<Event>,
}

impl Fake {
    /// Finds what is expected.
    pub(crate) fn obedient() -> Fake {
        Fake { special: Vec::new(), failing: None, events: aba_events() }
    }
}

impl Machine for Fake {
    fn explore(
        &self,
        variant: &Variant,
        goal: &Goal,
        _: &Search,
        progress: Progress<'_>,
    ) -> Result<Outcome, Failure> {
        if !progress(&Stats::default()) {
            return Ok(outcome(Verdict::Inconclusive(Reason::Interrupted)));
        }
        if self.failing == Some(variant.scenario.name.as_str()) {
            return Err(Failure::internal("internal error: made by hand,\nin two lines"));
        }
        let special = self.special.iter().find(|(name, _)| variant.scenario.name == *name);
        if let Some((_, special)) = special {
            return Ok(special.clone());
        }
        Ok(outcome(match goal.rule {
            None => Verdict::Holds,
            Some(rule) => Verdict::Violated(Found { rule, ..aba_found() }),
        }))
    }

    fn minimise(
        &self,
        _: &Variant,
        _: &Goal,
        found: &Found,
        _: &Search,
        _: Progress<'_>,
    ) -> Result<Minimised, Failure> {
        Ok(Minimised { found: found.clone(), exact: true, cut: None })
    }

    fn witness(
        &self,
        _: &Variant,
        _: Nesting,
        _: &Search,
        _: Progress<'_>,
    ) -> Result<Option<Example>, Failure> {
        Ok(None)
    }

    fn replay(&self, variant: &Variant, _: &Schedule) -> Result<Replayed, Failure> {
        if variant.without == GuardSet::EMPTY && variant.scenario.name == "aba-indirect" {
            return Ok(aba_twin());
        }
        Ok(Replayed { events: self.events.clone(), ..Replayed::default() })
    }
}

/// Every variant of every built-in scenario.
pub(crate) fn all_variants() -> Vec<Variant> {
    let builtin = load::builtin(1).expect("the built-in scenarios load");
    let selected =
        builtin.iter().map(|scenario| kvmmu::lab::select::Selected::builtin(Arc::clone(scenario)));
    selected.flat_map(|s| kvmmu::lab::select::variants(&s, &[])).collect()
}

/// A directory of its own for a test, empty.
pub(crate) fn scratch(name: &str) -> std::path::PathBuf {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a test can make its directory");
    path
}
