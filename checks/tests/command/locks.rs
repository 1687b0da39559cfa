//! Goal: `locks` prints the document's table and says of each order whether anything exercises it;
//! what is printed is text, reStructuredText, JSON and a graph, and does not depend on `--jobs`.
//! Method: a machine whose answers are made by hand, and the built-in scenarios.

use crate::common::{Fake, outcome, variant};
use crate::docutils::docutils;
use kvmmu::cli::args::LocksFormat;
use kvmmu::cli::exit::Exit;
use kvmmu::commands::locks::{Request, look};
use kvmmu::lab::run::{Machine, Simulated};
use kvmmu::lab::search::Search;
use kvmmu::lab::variant::Variant;
use kvmmu_model::lock::Section;
use kvmmu_model::lock::order::documented;
use kvmmu_model::{Hold, LockClass, Mode};
use kvmmu_scenarios::lockdep::LockOrders;
use kvmmu_sim::outcome::{Outcome, Reason, Verdict};

/// What the command prints of `variants`, and its exit code.
fn locks(
    machine: &dyn Machine,
    variants: &[Variant],
    jobs: usize,
    format: LocksFormat,
    all: bool,
) -> (Exit, String) {
    let search = Search {
        strategy: kvmmu::lab::search::Strategy::Random,
        states_max: 1_000,
        executions_max: 200,
        ..Search::default()
    };
    let request = Request { search, jobs, format, all, quiet: true };
    let mut out = Vec::new();
    let exit = look(machine, variants, &request, &|| false, &mut out).expect("it is printed");
    (exit, String::from_utf8(out).expect("it is text"))
}

#[test]
fn every_order_of_the_table_is_exercised_and_none_that_is_seen_is_missing_there() {
    let locks = |v: &Variant| v.scenario.name.starts_with("lock-");
    let mmu = ["host-writable", "change-pte", "lost-dirty-clear", "vmid-rollover"];
    let chosen = |v: &Variant| locks(v) || mmu.contains(&v.scenario.name.as_str());
    let variants: Vec<Variant> = every().into_iter().filter(chosen).collect();
    let (exit, text) = self::locks(&Simulated, &variants, 2, LocksFormat::Json, false);
    assert_eq!(exit, Exit::Expected);
    let page: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let rows = |key: &str| page[key].as_array().expect("a list").clone();
    assert_eq!((rows("documented").len(), rows("cycles").len()), (5, 0));
    for order in rows("documented").into_iter().chain(rows("undocumented")) {
        assert!(order["times"].as_u64().is_some_and(|times| times > 0), "not exercised: {order}");
    }
    assert_eq!(rows("undeclared"), Vec::<serde_json::Value>::new());
}

/// A machine that sees these nestings in `aba-direct` and nothing elsewhere.
fn sees(nestings: &[(LockClass, Mode, LockClass, Mode)]) -> Fake {
    let mut locks = LockOrders::default();
    for (outer, held, inner, wanted) in nestings {
        let (outer, inner) = (Hold::new(*outer, *held), Hold::new(*inner, *wanted));
        locks.count([outer].into_iter(), inner, 2);
    }
    let sampled = outcome(Verdict::Inconclusive(Reason::NotExhaustive));
    Fake { special: vec![("aba-direct", Outcome { locks, ..sampled })], ..Fake::obedient() }
}

/// The built-in scenarios with every guard.
fn every() -> Vec<Variant> {
    crate::common::all_variants().into_iter().filter(|v| v.without.is_empty()).collect()
}

#[test]
fn every_lock_has_every_field_and_every_order_its_line() {
    let (exit, text) = locks(&sees(&[]), &every(), 1, LocksFormat::Text, false);
    assert_eq!(exit, Exit::Expected);
    let mut rest = text.as_str();
    for class in LockClass::ALL.iter().filter(|c| c.info().section != Section::Test) {
        let info = class.info();
        for line in [
            format!(":Name:          {}\n", info.name),
            format!(":Type:          {}\n", info.kind.name()),
            format!(":Arch:          {}\n", info.arch.name()),
            ":Protects:      - ".to_owned(),
            ":Comment:       ".to_owned(),
        ] {
            let at = rest.find(&line);
            rest = &rest[at.unwrap_or_else(|| panic!("no '{line}' at its place\n{text}"))..];
        }
    }
    for order in documented() {
        let (outer, inner) = (order.outer.class.info().name, order.inner.class.info().name);
        let wanted = format!("{outer} is taken outside {inner}\n    NOT EXERCISED.\n");
        assert!(rest.contains(&wanted), "no '{wanted}'\n{text}");
    }
    assert!(text.lines().all(|line| line.len() <= 98 && !line.ends_with(' ')), "{text}");
    assert!(text.is_ascii());
}

#[test]
fn orders_are_told_by_who_says_so() {
    use LockClass::{KvmLock, KvmMutex, KvmSrcu, MmuLock, SlotsLock, VcpuMutex, XenLock};
    use Mode::{Exclusive, Read};
    let machine = sees(&[
        (KvmMutex, Exclusive, SlotsLock, Exclusive),
        (VcpuMutex, Exclusive, KvmSrcu, Read),
        (VcpuMutex, Exclusive, MmuLock, Exclusive),
        (MmuLock, Exclusive, KvmSrcu, Read),
        (KvmLock, Exclusive, XenLock, Exclusive),
    ]);
    let (exit, text) = locks(&machine, &every(), 1, LocksFormat::Text, false);
    assert_eq!(exit, Exit::Expected);
    let at = text.find("Acquisition orders").expect("it has orders");
    insta::assert_snapshot!("orders", &text[at..]);
    let (_, all) = locks(&machine, &every(), 1, LocksFormat::Text, true);
    assert!(all.contains("kvm->mmu_lock inside vcpu->mutex\n"), "{all}");
    assert!(all.contains("    Follows from: a read section of kvm->srcu is taken"), "{all}");
}

/// Goal: locks that files declare are listed with their file, and their orders apart from KVM's.
/// Two files may give one name to two locks.
#[test]
fn locks_of_a_file_have_lists_of_their_own() {
    let file = |name: &str, outer: &str, inner: &str| {
        let text = format!(
            "title = \"t\"\nsource = \"s\"\nabout = \"a\"\npaging = \"direct\"\nspte = \"ept\"\n\
             slot = [{{ gfn = 0, pages = 1 }}]\nlock = [{{ name = \"mine\", type = \"mutex\" }}]\n\
             [[thread]]\nname = \"user\"\nrun = [\"lock {outer}\", \"lock {inner}\", \
             \"unlock {inner}\", \"unlock {outer}\"]\n[check]\n"
        );
        let scenario = kvmmu_scenarios::loader::load(name, &text, 1).expect("it is valid");
        Variant::of(&std::sync::Arc::new(scenario), None, kvmmu_model::GuardSet::EMPTY)
    };
    // As one lock these were a cycle.
    let files = [file("one.toml", "slots_lock", "mine"), file("two.toml", "mine", "slots_lock")];
    let (exit, text) = locks(&Simulated, &files, 1, LocksFormat::Text, false);
    assert_eq!(exit, Exit::Expected, "{text}");
    let listed = "Locks that scenario files declare\n---------------------------------\n\n\
         :Name:          mine\n:Type:          mutex\n:Scenario:      one\n\n\
         :Name:          mine\n:Type:          mutex\n:Scenario:      two\n\n";
    assert!(text.contains(listed), "{text}");
    let orders = text.split("Orders of locks that scenario files declare").nth(1).expect("a list");
    for (order, of) in
        [("kvm->slots_lock inside mine", "two"), ("mine inside kvm->slots_lock", "one")]
    {
        let line = format!("\n{order}\n    Observed 200 times: {of} (200).\n");
        assert!(orders.contains(&line), "{line}{text}");
    }
    assert!(!text.contains("nobody has declared"), "{text}");
    let (_, dot) = locks(&Simulated, &files, 1, LocksFormat::Dot, false);
    assert!(dot.contains("  \"mine of two\" -> \"kvm->slots_lock\" [style = dashed"), "{dot}");
    let (_, json) = locks(&Simulated, &files, 1, LocksFormat::Json, false);
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is one object");
    assert_eq!(json["own"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_cycle_is_exit_1_and_red() {
    use LockClass::{KvmLock, SlotsLock};
    let (held, wanted) = (Mode::Exclusive, Mode::Exclusive);
    let machine = sees(&[(KvmLock, held, SlotsLock, wanted), (SlotsLock, held, KvmLock, wanted)]);
    let variants = [variant("aba-direct", "")];
    let (exit, text) = locks(&machine, &variants, 1, LocksFormat::Text, false);
    assert_eq!(exit, Exit::Unexpected);
    assert!(text.contains("A CYCLE of 2 orders\n"), "{text}");
    assert!(text.contains("kvm_lock is taken inside kvm->slots_lock: aba-direct."), "{text}");
    let (_, dot) = locks(&machine, &variants, 1, LocksFormat::Dot, false);
    let edge = "  \"kvm->slots_lock\" -> \"kvm_lock\" [style = dashed, label = \"2\", color = red";
    assert!(dot.contains(edge), "{dot}");
    let (_, json) = locks(&machine, &variants, 1, LocksFormat::Json, false);
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is one object");
    assert_eq!(json["cycles"][0].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_violation_is_exit_1_and_a_bound_exit_3() {
    let found = crate::common::aba_found();
    let special = vec![("aba-direct", outcome(Verdict::Violated(found)))];
    let machine = Fake { special, ..Fake::obedient() };
    let variants = [variant("aba-direct", ""), variant("canary", "")];
    let (exit, text) = locks(&machine, &variants, 1, LocksFormat::Text, false);
    assert_eq!(exit, Exit::Unexpected);
    assert!(text.contains("VIOLATED, although every guard is present\n"), "{text}");
    assert!(text.contains("Observed in 1 scenario, "), "the canary is left out: {text}");
    let special = vec![("aba-direct", outcome(Verdict::Inconclusive(Reason::States)))];
    let machine = Fake { special, ..Fake::obedient() };
    let (exit, _) = locks(&machine, &variants, 1, LocksFormat::Text, false);
    assert_eq!(exit, Exit::Inconclusive);
}

#[test]
fn the_output_does_not_depend_on_jobs_and_docutils_reads_it() {
    for all in [false, true] {
        let print = |jobs| locks(&Simulated, &every(), jobs, LocksFormat::Rst, all);
        let (exit, text) = print(1);
        assert_eq!(exit, Exit::Expected, "{text}");
        assert_eq!(print(4), (exit, text.clone()));
        if let Some(said) = docutils(&text) {
            assert_eq!(said, "tables=0", "{text}");
        }
    }
}
