//! Goal: each wrong use of locks is told as lockdep tells it: what was being acquired, what was
//! held and where it was taken, the rule or the chain, and the CPUs that would block one another.
//! Method: small programs of locks in place of a scenario, explored, minimised and told by the
//! command's own code; the exact text, which somebody has read; the same of built-in scenarios.
//! [`locks`] goes through the strategies instead.

mod locks;
mod program;
#[path = "../told/mod.rs"]
mod told;

use std::path::Path;
use std::sync::Arc;

use kvmmu::cli::args::ReportFormat;
use kvmmu::commands::explain::{Request, tell};
use kvmmu::commands::replay::from_schedule;
use kvmmu::lab::load::builtin;
use kvmmu::lab::run::{Machine, Simulated};
use kvmmu::lab::search::Search;
use kvmmu::lab::variant::{Variant, parse_guards};
use kvmmu::report::{self, Report};
use kvmmu_model::LockClass::{
    self, CpuHotplugLock, KvmLock, KvmMutex, KvmSrcu, MmapLock, MmuLock, PvclockGtodSyncLock,
    SlotsLock, VcpuMutex,
};
use kvmmu_model::{GuardSet, Mode, Object};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::program::{Program, Steps};
use kvmmu_scenarios::scenario::{Paging, Thread, ThreadKind};
use program::{Do, Locking};
use told::{docutils, masked};

/// Built-in scenarios whose reports have goldens here: the name, and the guards that are missing.
const BUILT_IN: &[(&str, &str)] = &[
    ("lock-psci", "psci-without-kvm-lock"),
    ("lock-usage-count", "usage-count-own-lock"),
    ("lock-xen", "xen-own-lock"),
    ("lock-avic-window", "apicv-update-drops-srcu"),
    ("lock-memslots", "run-holds-srcu"),
    ("lock-gup", "gup-outside-mmu-lock"),
    ("lock-hyperv", "hv-lock-inside-vcpu-mutex"),
    ("lock-create-pit", "pit-releases-irq-lock"),
    ("lock-hardware", "count-lock-no-mutex"),
    ("lock-tsc", "tsc-write-lock-leaf"),
    ("lock-bus", "bus-free-after-grace-period"),
    ("lock-psci-deadlock", "psci-without-kvm-lock"),
    ("lock-usage-count-deadlock", "usage-count-own-lock"),
];

/// What the command says of `variant` on `machine`.
#[track_caller]
fn told(machine: &dyn Machine, variant: &Variant, directory: &str) -> Report {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(directory);
    let request = Request {
        search: &Search::default(),
        format: ReportFormat::Text,
        all: false,
        trace_dir: &directory,
        quiet: true,
    };
    let told = tell(machine, variant, &request, &|| false).expect("it is violated");
    assert!(told.trace.expect("a trace can be written").exists());
    told.report
}

/// The text without what changes with every edit of the sources.
fn stable(report: &Report) -> String {
    let report = Report { trace: report.trace.as_ref().map(|_| "TRACE".into()), ..report.clone() };
    let text = report::text::render(&report);
    // The first line, which is the identity of the bug, is never broken.
    assert!(text.lines().skip(1).all(|line| line.len() <= 98 && line.is_ascii()), "{text}");
    assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
    if let Some(said) = docutils(&report::rst::render(&report)) {
        let tables = usize::from(report.has_table());
        assert_eq!(said, format!("tables={tables}"), "{text}");
    }
    masked(&masked(&masked(&text, ".rs:"), "v1-"), ", after ")
}

/// A scenario that gives the threads their names: what runs is the program.
fn variant() -> Variant {
    let scenarios = builtin(1).expect("built-in files load");
    let canary = scenarios.iter().find(|s| s.name == "canary").expect("it is built in");
    let kinds = [
        ("vcpu0", ThreadKind::Vcpu),
        ("vcpu1", ThreadKind::Vcpu),
        ("host", ThreadKind::Host),
        ("user", ThreadKind::User),
    ];
    let thread = |(name, kind): (&str, ThreadKind)| Thread {
        name: name.to_owned(),
        kind,
        paging: Paging::Direct,
        run: Program::Other(Steps::default()),
    };
    let scenario = Scenario {
        name: "locks".to_owned(),
        source: "a program of locks".to_owned(),
        threads: kinds.map(thread).to_vec(),
        expects: Vec::new(),
        ..Scenario::clone(canary)
    };
    Variant::of(&Arc::new(scenario), None, GuardSet::EMPTY)
}

fn program(threads: Vec<Vec<Do>>) -> Locking {
    Locking { threads, lock_checks: true }
}

fn hold(function: &'static str, class: LockClass, inside: Vec<Do>) -> Do {
    Do::Hold(function, class.one(), Mode::Exclusive, inside)
}

fn read(function: &'static str, class: LockClass, inside: Vec<Do>) -> Do {
    Do::Hold(function, class.one(), Mode::Read, inside)
}

fn synchronize(function: &'static str) -> Do {
    Do::Synchronize(function, KvmSrcu.one())
}

/// CORPUS of KVM: `kvm->lock` inside `vcpu->mutex`.
fn inverted() -> Locking {
    let vcpu =
        vec![hold("kvm_vcpu_ioctl", VcpuMutex, vec![hold("kvm_reset_vcpu", KvmMutex, vec![])])];
    program(vec![vcpu])
}

/// A read section in which slots_lock is taken, over grace periods inside slots_lock.
fn two() -> Locking {
    let vcpu =
        vec![read("vcpu_enter_guest", KvmSrcu, vec![hold("toggle_avic", SlotsLock, vec![])])];
    let user =
        vec![hold("set_memory_region", SlotsLock, vec![synchronize("install_new_memslots")])];
    program(vec![vcpu, vec![], vec![], user])
}

/// slots_lock, SRCU, CPU hotplug and kvm_lock.
fn four() -> Locking {
    let vcpu =
        vec![read("vcpu_run", KvmSrcu, vec![read("kvm_lapic_set_base", CpuHotplugLock, vec![])])];
    let online =
        vec![hold("_cpu_up", CpuHotplugLock, vec![hold("kvmclock_notifier", KvmLock, vec![])])];
    let huge =
        vec![hold("set_nx_huge_pages", KvmLock, vec![hold("zap_all_fast", SlotsLock, vec![])])];
    let user =
        vec![hold("set_memory_region", SlotsLock, vec![synchronize("install_new_memslots")])];
    program(vec![vcpu, online, huge, user])
}

#[test]
fn an_order_that_the_document_has_the_other_way_round() {
    insta::assert_snapshot!("order", stable(&told(&inverted(), &variant(), "lockdep-order")));
}

#[test]
fn an_order_that_contradicts_a_chain_of_documented_ones() {
    let inside = vec![hold("hv_setup", KvmMutex, vec![])];
    let vcpu = vec![hold("kvm_hv_set_msr_common", LockClass::HvLock, inside)];
    let report = told(&program(vec![vcpu]), &variant(), "lockdep-chain");
    insta::assert_snapshot!("chain", stable(&report));
}

#[test]
fn sleeping_under_a_spinlock() {
    let vcpu = vec![read(
        "vcpu_enter_guest",
        KvmSrcu,
        vec![hold("direct_page_fault", MmuLock, vec![read("gfn_to_pfn", MmapLock, vec![])])],
    )];
    insta::assert_snapshot!(
        "sleep",
        stable(&told(&program(vec![vcpu]), &variant(), "lockdep-sleep"))
    );
}

#[test]
fn sleeping_in_a_read_section_of_rcu() {
    let vcpu =
        vec![read("tdp_mmu_map", LockClass::VarRcu, vec![hold("top_up", SlotsLock, vec![])])];
    let report = told(&program(vec![vcpu]), &variant(), "lockdep-rcu");
    insta::assert_snapshot!("rcu", stable(&report));
}

#[test]
fn a_lock_inside_a_leaf() {
    let vcpu = vec![hold("map", MmuLock, vec![hold("clock", PvclockGtodSyncLock, vec![])])];
    insta::assert_snapshot!(
        "leaf",
        stable(&told(&program(vec![vcpu]), &variant(), "lockdep-leaf"))
    );
}

#[test]
fn memslots_read_outside_a_read_section() {
    let vcpu =
        vec![hold("kvm_vcpu_ioctl", VcpuMutex, vec![Do::Read("kvm_memslots", Object::Memslots)])];
    let report = told(&program(vec![vcpu]), &variant(), "lockdep-protection");
    insta::assert_snapshot!("protection", stable(&report));
}

#[test]
fn a_lock_that_is_taken_twice() {
    let user =
        vec![hold("set_memory_region", SlotsLock, vec![hold("zap_all_fast", SlotsLock, vec![])])];
    let report = told(&program(vec![vec![], vec![], vec![], user]), &variant(), "lockdep-usage");
    insta::assert_snapshot!("usage", stable(&report));
}

#[test]
fn a_cycle_has_a_run_for_each_of_its_orders() {
    let report = told(&two(), &variant(), "lockdep-cycle");
    insta::assert_snapshot!("cycle", stable(&report));
    let json = serde_json::to_value(&report).expect("it is JSON");
    for link in json["lockdep"]["chain"].as_array().expect("it has a chain") {
        let seen = &link["witness"];
        let mut out = Vec::new();
        let schedule = seen["schedule"].as_str().expect("it has a schedule");
        from_schedule(&two(), &variant(), schedule, false, &mut out).expect("it replays");
        let text = String::from_utf8(out).expect("it is text");
        let (wanted, held) = (&seen["wanted"]["lock"], &seen["held"]["lock"]);
        let (wanted, held) = (wanted.as_str().unwrap(), held.as_str().unwrap());
        let last = text.lines().last().expect("it has an end");
        assert!(last.ends_with(&format!("asks for {wanted} and holds {held}")), "{text}");
    }
}

#[test]
fn a_cycle_of_four_orders() {
    insta::assert_snapshot!("cycle-of-four", stable(&told(&four(), &variant(), "lockdep-four")));
}

#[test]
fn a_deadlock_through_readers_and_a_grace_period() {
    let machine = Locking { lock_checks: false, ..four() };
    let report = told(&machine, &variant(), "lockdep-deadlock");
    assert_eq!(report.property, "deadlock");
    insta::assert_snapshot!("deadlock", stable(&report));
}

#[test]
fn without_checks_only_the_deadlock_is_left() {
    let variant = variant();
    let goal = variant.goal();
    for (machine, property) in [(inverted(), None), (two(), Some("deadlock"))] {
        let machine = Locking { lock_checks: false, ..machine };
        let outcome =
            machine.explore(&variant, &goal, &Search::default(), &|_| true).expect("it runs");
        let found = match outcome.verdict {
            kvmmu_sim::outcome::Verdict::Violated(found) => Some(found.rule),
            _ => None,
        };
        assert_eq!(found.map(kvmmu_sim::rule::Rule::name), property);
    }
}

/// A file that declares locks `a`, `b` and `gate` of this type, and takes them in both orders but
/// never at the same time.
fn own_locks(kind: &str) -> Variant {
    let lock = |name| format!("[[lock]]\nname = \"{name}\"\ntype = \"{kind}\"\n");
    let thread = |name, [outer, inner]: [&str; 2]| {
        format!(
            "[[thread]]\nname = \"{name}\"\nrun = [\"lock gate\", \"lock {outer}\", \
             \"lock {inner}\", \"unlock {inner}\", \"unlock {outer}\", \"unlock gate\"]\n"
        )
    };
    let locks = ["a", "b", "gate"].map(lock).concat();
    let threads = [thread("user", ["a", "b"]), thread("user1", ["b", "a"])].concat();
    let text = format!(
        "title = \"t\"\nsource = \"s\"\nabout = \"a\"\npaging = \"direct\"\nspte = \"ept\"\n\
         [[slot]]\ngfn = 0\npages = 1\n{locks}{threads}[check]\n"
    );
    let scenario = kvmmu_scenarios::loader::load("own.toml", &text, 1).expect("it is valid");
    Variant::of(&Arc::new(scenario), None, GuardSet::EMPTY)
}

#[test]
fn locks_of_a_file_are_called_as_the_file_calls_them() {
    let report = told(&Simulated, &own_locks("mutex"), "lockdep-own");
    let chain = report.lockdep.iter().flat_map(|lockdep| &lockdep.chain);
    assert!(chain.clone().all(|link| link.witness.is_some()), "{report:#?}");
    insta::assert_snapshot!("own-locks", stable(&report));
}

#[test]
fn built_in_scenarios() {
    let scenarios = builtin(1).expect("built-in files load");
    for (name, guards) in BUILT_IN {
        let scenario = scenarios.iter().find(|s| s.name == *name).expect("it is built in");
        let guards = parse_guards(guards).expect("these are guards");
        let variant = Variant::of(scenario, None, guards);
        let report = told(&Simulated, &variant, "lockdep-built-in");
        let chain = report.lockdep.iter().flat_map(|lockdep| &lockdep.chain);
        assert!(chain.clone().all(|link| link.witness.is_some()), "{name}: {report:#?}");
        let golden = format!("{name}-{}", kvmmu::lab::variant::join(guards, "-"));
        insta::assert_snapshot!(golden, stable(&report));
    }
}
