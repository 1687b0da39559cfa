//! Goal: `classes` counts what it is asked for, and says what a name that it does not know is.
//! Method: the command on a small scenario.

use std::process::{Command, Output};

fn classes(arguments: &[&str]) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_classes")).args(arguments).output();
    command.expect("it is built")
}

#[test]
fn a_named_scenario_has_states_classes_and_parts_that_differ_for_nothing() {
    let output = classes(&["age-vs-fast-fault"]);
    let text = String::from_utf8(output.stdout).expect("it is text");
    assert!(output.status.success(), "{text}");
    let row = text.lines().find(|line| line.starts_with("age-vs-fast-fault")).expect("a row");
    let numbers = row.split_whitespace().skip(1).take(3).map(|n| n.parse::<u64>());
    let numbers: Vec<u64> = numbers.collect::<Result<_, _>>().expect("numbers");
    let [states, transitions, classes] = numbers[..] else { panic!("{row}") };
    assert!(100 < classes && classes < states && states < transitions, "{row}");
    assert!(row.ends_with(&format!(" {:.2}x", states as f64 / classes as f64)), "{row}");
    // The first part that is left out: so many states are left, so many times fewer.
    let part = text.lines().nth(2).expect("a part");
    let left: u64 = part.split_whitespace().next().and_then(|n| n.parse().ok()).expect(part);
    assert!(classes <= left && left < states, "{part}");
    assert!(part.contains(&format!(" {:.2}x", states as f64 / left as f64)), "{part}");
}

#[test]
fn an_unknown_scenario_is_refused() {
    let output = classes(&["age-vs-fast-faults"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).expect("it is text");
    assert!(text.starts_with("error: no built-in scenario 'age-vs-fast-faults'\nhelp: "), "{text}");
}
