//! Outcomes: one text each, whatever machine wrote it.
#![cfg(feature = "loader")]

use std::num::NonZeroU64;

use kvmmu_model::{CpuId, Gfn, Guard, GuardSet};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::builtin::FILES;
use kvmmu_scenarios::loader;
use kvmmu_scenarios::outcome::{
    Asker, HARVESTS_MAX, Harvest, Harvests, Line, Outcome, ParseError, frames, harvests_max, stored,
};
use proptest::prelude::*;

fn builtin(name: &str) -> Scenario {
    let file = format!("{name}.toml");
    let (file, text) = FILES.iter().find(|(f, _)| *f == file).expect("a built-in scenario");
    loader::load(file, text, 1).unwrap_or_else(|e| panic!("{e}"))
}

fn harvest(to: Asker, frames: u64) -> Harvest {
    Harvest { to, slot: 0, frames }
}

/// Goal: the sample of the module's documentation. Method: built as a machine with real memory
/// would.
#[test]
fn a_machine_without_a_world_builds_an_outcome() {
    let scenario = builtin("aba-direct");
    let (first, second) = (stored(0, CpuId(0), 0), stored(stored(0, CpuId(0), 0), CpuId(1), 1));
    assert_eq!((first, second), (0x1, 0x201));
    let harvests = [harvest(Asker::Stop, 0), harvest(Asker::Thread(2), 1)];
    let outcome = Outcome::new(&scenario, |_| second, |_| first, harvests);
    let frames = outcome.frames().iter().map(|f| format!("{f} ")).collect::<String>();
    assert!(frames.starts_with("gfn0=0x201/0x1 "), "{frames}");
    assert_eq!(outcome.to_string(), format!("{frames}t2.slot0={{gfn0}} stop.slot0={{}}"));
}

/// Goal: guest tables, whose contents no two machines share, are in no outcome; copies only where
/// there is a log. Method: the frames of scenarios with each.
#[test]
fn tables_are_left_out_and_copies_are_of_logged_slots() {
    let shadow = builtin("aba-indirect");
    assert!(!shadow.guest_tables.is_empty());
    for table in &shadow.guest_tables {
        assert!(frames(&shadow).all(|(gfn, _)| gfn != table.gfn));
    }
    let unlogged = builtin("lost-dirty-update");
    let outcome = Outcome::new(&unlogged, |_| 3, |_| unreachable!("no log, no copy"), []);
    assert_eq!(outcome.to_string(), "gfn0=0x3");
}

/// Goal: no built-in scenario has more harvests than a world can record.
#[test]
fn every_scenario_fits_the_record() {
    for (file, text) in FILES {
        let scenario = loader::load(file, text, 1).unwrap_or_else(|e| panic!("{e}"));
        assert!(harvests_max(&scenario) <= HARVESTS_MAX, "{file}");
    }
}

#[test]
fn texts_in_another_form_are_refused() {
    assert_eq!("nothing".parse(), Ok(Outcome::default()));
    assert_eq!(Outcome::default().to_string(), "nothing");
    for (text, item) in [
        ("", 0),
        ("gfn0", 0),
        ("gfn0=1", 0),
        ("gfn0=0x", 0),
        ("gfn0=0x10000000000000000", 0),
        ("gfn0=0x1/", 0),
        ("gfn0=0x1  gfn1=0x1", 1),
        ("gfn0=0x1 nothing", 1),
        ("t0.slot0={gfn64}", 0),
        ("t256.slot0={}", 0),
        ("stop.slot0={gfn0", 0),
        ("stop.slot0={,}", 0),
        ("u0.slot0={}", 0),
    ] {
        assert_eq!(text.parse::<Outcome>(), Err(ParseError::Item(item)), "{text}");
    }
    for text in [
        "gfn0=0x01",
        "gfn0=0xA",
        "gfn00=0x1",
        "gfn+0=0x1",
        "gfn1=0x1 gfn0=0x1",
        "gfn0=0x1 gfn0=0x1",
        "stop.slot0={} t0.slot0={}",
        "t0.slot0={} gfn0=0x1",
        "stop.slot0={gfn1,gfn0}",
        "stop.slot0={gfn0,gfn0}",
    ] {
        assert_eq!(text.parse::<Outcome>(), Err(ParseError::NotCanonical), "{text}");
    }
}

#[test]
fn a_line_is_the_one_that_the_documentation_shows() {
    let outcome: Outcome = "gfn0=0x1/0x1".parse().expect("an outcome");
    let count = NonZeroU64::new(90).expect("not 0");
    let line = Line {
        machine: "el2",
        scenario: "aba-direct",
        without: GuardSet::EMPTY,
        spte: Some("stage2"),
        outcome: &outcome,
        count,
    };
    let expected = concat!(
        r#"{"kvmmu-outcome":1,"machine":"el2","scenario":"aba-direct","without":[],"#,
        r#""spte":"stage2","outcome":"gfn0=0x1/0x1","count":90}"#,
    );
    assert_eq!(line.to_string(), expected);
    let guards = GuardSet::EMPTY.with(Guard::ALL[0]).with(Guard::ALL[1]);
    let line = Line { without: guards, spte: None, scenario: "a\"b\\c\n", ..line };
    let (a, b) = (Guard::ALL[0].info().name, Guard::ALL[1].info().name);
    let begin = r#"{"kvmmu-outcome":1,"machine":"el2","scenario":"a\"b\\c\u000a","without":["#;
    let end = r#"],"outcome":"gfn0=0x1/0x1","count":90}"#;
    let expected = format!("{begin}\"{a}\",\"{b}\"{end}");
    assert_eq!(line.to_string(), expected);
}

fn askers() -> impl Strategy<Value = Asker> {
    prop_oneof![(0..3_u8).prop_map(Asker::Thread), Just(Asker::Stop)]
}

proptest! {
    /// Goal: reading undoes writing, and any outcome has one text.
    #[test]
    fn texts_round_trip(
        contents in prop::collection::vec(any::<u64>(), 4),
        harvests in prop::collection::vec((askers(), 0..2_u8, any::<u64>()), 0..6),
    ) {
        let scenario = builtin("aba-direct");
        let harvests = harvests.iter().map(|&(to, slot, frames)| Harvest { to, slot, frames });
        let read = |gfn: Gfn| contents[gfn.0 as usize % 4];
        let outcome = Outcome::new(&scenario, read, |gfn| read(gfn) >> 8, harvests);
        prop_assert_eq!(outcome.to_string().parse(), Ok(outcome));
    }

    /// Goal: garbage is refused, not a panic; what is accepted is written back as it was.
    #[test]
    fn what_is_read_is_written_back(text in "[gfnstoplx0-9a={},./ ]{0,40}") {
        if let Ok(outcome) = text.parse::<Outcome>() {
            prop_assert_eq!(outcome.to_string(), text);
        }
    }

    /// Goal: a record does not tell how the calls of two threads interleave. Method: a random
    /// interleaving against one thread after the other.
    #[test]
    fn harvests_of_two_threads_commute(
        calls in prop::collection::vec((askers(), any::<u64>()), 0..HARVESTS_MAX),
    ) {
        let mut mixed = Harvests::EMPTY;
        let mut sorted = calls.clone();
        sorted.sort_by_key(|(to, _)| *to);
        let mut apart = Harvests::EMPTY;
        for (calls, record) in [(&calls, &mut mixed), (&sorted, &mut apart)] {
            calls.iter().for_each(|(to, frames)| record.push(harvest(*to, *frames)));
        }
        prop_assert_eq!(mixed, apart);
        prop_assert!(mixed.iter().map(|h| (h.to, h.frames)).eq(sorted));
    }
}
