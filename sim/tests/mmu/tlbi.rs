//! Goal: a change of a descriptor is flushed by the instructions of arm64 if their scope, their
//! barrier and their order are right, and a CPU uses what it cached until then. Method: a vCPU that
//! stores once, and a host thread that takes the page's entry out of the table and flushes, in
//! every way that is right or wrong; whether the vCPU stores by its TLB after the flush.

use kvmmu_model::arm64::{Dsb, Tlbi, TlbiScope};
use kvmmu_model::platform::Ordering::Relaxed;
use kvmmu_model::x86::mmu::walk::hardware_walk;
use kvmmu_model::{Access, CpuId, Gfn, Mark, Platform, Spte, SpteLoc, Tables, Word};
use kvmmu_scenarios::machine::{GuestAccess, Machine};
use kvmmu_scenarios::{Scenario, World, loader};
use kvmmu_sim::dpor::Dpor;
use kvmmu_sim::outcome::{Outcome, Verdict};
use kvmmu_sim::race::{Body, Race};
use kvmmu_sim::stateful::Stateful;
use kvmmu_sim::{Explorer, Goal, Limits, Sim};

/// The vCPU, and the CPU of the host thread.
const VCPU: CpuId = CpuId(0);
const OTHER: CpuId = CpuId(1);

/// One page, which the vCPU may have cached writable.
fn scenario() -> Scenario {
    let text = r#"
        title = "t"
        source = "s"
        about = "a"
        paging = "direct"
        spte = "stage2"
        [[slot]]
        gfn = 0
        pages = 5
        [map]
        "gfn0" = { pfn = 0, spte = "111", cached = true }
        "gfn4" = { pfn = 1, spte = "111", cached = true }
        [[thread]]
        name = "vcpu0"
        run = ["write gfn0"]
        [[thread]]
        name = "host"
        run = ["swap-out gfn0"]
        [check]
        always = ["spte-legal"]
        lock-checks = false
        sometimes = ["flush-done@host < stale-translation@vcpu0"]
    "#;
    loader::load("tlbi.toml", text, 1).unwrap_or_else(|e| panic!("{e}"))
}

/// Where the entry of gfn0 is.
fn place(w: &World<Sim>) -> SpteLoc {
    let read = |loc| Spte(w.vm.mmu.sptep(loc).peek());
    hardware_walk(w.vm.mmu.format(), w.vm.mmu.root(VCPU), 0, read).0.loc
}

/// The guest stores once, and goes on to run.
fn store(w: &World<Sim>) {
    Sim::guest_entered(w, VCPU);
    Sim::guest_access(w, VCPU, GuestAccess { page: 0, access: Access::Write, byte: (0, 1) });
}

fn unmap(w: &World<Sim>) {
    // ORDERING: relaxed: a `DSB` publishes it.
    w.vm.mmu.sptep(place(w)).store(0, Relaxed);
}

fn flushed(w: &World<Sim>) {
    w.m.mark(Mark::FlushDone);
}

/// `__kvm_tlb_flush_vmid` with other instructions and barriers.
fn flush(w: &World<Sim>, scope: TlbiScope, dsb: Dsb) {
    unmap(w);
    w.m.dsb(Dsb::Ishst);
    w.m.tlbi(scope);
    w.m.dsb(dsb);
    w.m.isb();
    flushed(w);
}

const ALL: TlbiScope = TlbiScope::broadcast(Tlbi::Vmalls12e1);
const fn page(gfn: u64) -> Tlbi {
    Tlbi::Ipas2e1 { ipa: Gfn(gfn), level: None }
}

/// What the host thread does, and whether the vCPU may store by its TLB after it.
const CASES: &[(&str, bool, Body)] = &[
    ("the whole VMID", false, |w| flush(w, ALL, Dsb::Ish)),
    ("no flush", true, |w| {
        unmap(w);
        flushed(w);
    }),
    ("no tlbi", true, |w| {
        unmap(w);
        w.m.dsb(Dsb::Ish);
        flushed(w);
    }),
    ("no dsb", true, |w| {
        unmap(w);
        w.m.tlbi(ALL);
        flushed(w);
    }),
    ("a dsb for stores alone", true, |w| flush(w, ALL, Dsb::Ishst)),
    ("a dsb that does not wait for others", true, |w| flush(w, ALL, Dsb::Nsh)),
    ("the page", false, |w| flush(w, TlbiScope::broadcast(page(0)), Dsb::Ish)),
    ("the page, with a hint", false, |w| {
        let what = Tlbi::Ipas2e1 { ipa: Gfn(0), level: Some(3) };
        flush(w, TlbiScope::broadcast(what), Dsb::Ish);
    }),
    ("its neighbour", true, |w| flush(w, TlbiScope::broadcast(page(1)), Dsb::Ish)),
    ("the same index of another table", true, |w| {
        flush(w, TlbiScope::broadcast(page(4)), Dsb::Ish);
    }),
    ("stage 1 and combined entries", true, |w| {
        flush(w, TlbiScope::broadcast(Tlbi::Vmalle1), Dsb::Ish);
    }),
    ("the other CPU alone", true, |w| {
        flush(w, TlbiScope::local(Tlbi::Vmalls12e1, OTHER), Dsb::Ish);
    }),
    ("the vCPU's own, with a local barrier", false, |w| {
        flush(w, TlbiScope::local(Tlbi::Vmalls12e1, VCPU), Dsb::Nsh);
    }),
    ("a flush before the change", true, |w| {
        w.m.tlbi(ALL);
        w.m.dsb(Dsb::Ish);
        unmap(w);
        flushed(w);
    }),
    ("a tlbi before the change, and the dsb after it", true, |w| {
        w.m.tlbi(ALL);
        unmap(w);
        w.m.dsb(Dsb::Ish);
        flushed(w);
    }),
    ("a page of two, and then the other", false, |w| {
        unmap(w);
        w.m.dsb(Dsb::Ishst);
        w.m.tlbi(TlbiScope::broadcast(page(4)));
        w.m.tlbi(TlbiScope::broadcast(page(0)));
        w.m.dsb(Dsb::Ish);
        flushed(w);
    }),
];

fn explore(host: Body, explorer: &mut dyn Explorer) -> Outcome {
    let race = Race::new(scenario(), kvmmu_model::GuardSet::EMPTY);
    let race = race.with_body(0, store).with_body(1, host);
    let outcome = explorer.explore(&race, &Goal::ANY, &Limits::default(), &|_| true);
    assert_eq!(outcome.verdict, Verdict::Holds);
    outcome
}

fn is_stale_after(outcome: &Outcome) -> bool {
    outcome.seen.witnesses & 1 == 1
}

#[test]
fn what_was_cached_is_used_until_the_right_flush_is_complete() {
    for (name, stale, host) in CASES {
        let by_state = explore(*host, &mut Stateful::default());
        assert_eq!(is_stale_after(&by_state), *stale, "{name}");
        // Before the flush is complete the vCPU may always use what it has.
        assert!(by_state.seen.mark(Mark::StaleTranslation), "{name}");
        let by_execution = explore(*host, &mut Dpor::default());
        assert_eq!(by_execution.seen, by_state.seen, "{name}: dpor sees something else");
    }
}

/// Goal: an invalidation and a barrier that completes it are steps, and one that publishes stores
/// is none, as long as a store is visible at once. Method: how many states there are with each.
#[test]
fn an_invalidation_is_a_step_and_a_barrier_for_stores_is_none() {
    let states = |host: Body| explore(host, &mut Stateful::default()).stats.states;
    let bare = states(unmap);
    let published = states(|w| {
        unmap(w);
        w.m.dsb(Dsb::Ishst);
        w.m.dsb(Dsb::Nshst);
        w.m.isb();
    });
    assert_eq!(published, bare);
    let begun = states(|w| {
        unmap(w);
        w.m.tlbi(ALL);
    });
    let complete = states(|w| {
        unmap(w);
        w.m.tlbi(ALL);
        w.m.dsb(Dsb::Ish);
    });
    assert!(bare < begun && begun < complete, "{bare}, {begun}, {complete}");
}

/// Goal: two threads may flush one CPU at once, and each is right when its own barrier is complete.
/// Method: a second thread that flushes the same page.
#[test]
fn flushes_of_two_threads_do_not_keep_each_other_from_completing() {
    let mut two = scenario();
    let mut user = two.threads[1].clone();
    user.name = "user".to_owned();
    two.threads.push(user);
    let race = Race::new(two, kvmmu_model::GuardSet::EMPTY);
    let other: Body = |w| {
        w.m.tlbi(ALL);
        w.m.dsb(Dsb::Ish);
    };
    let host: Body = |w| flush(w, TlbiScope::broadcast(page(0)), Dsb::Ish);
    let race = race.with_body(0, store).with_body(1, host).with_body(2, other);
    let outcome = Stateful::default().explore(&race, &Goal::ANY, &Limits::default(), &|_| true);
    assert_eq!(outcome.verdict, Verdict::Holds);
    assert!(!is_stale_after(&outcome) && outcome.seen.mark(Mark::StaleTranslation));
}
