//! From the words of the command line to scenarios and variants.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvmmu_model::{Guard, GuardSet, Release};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::scenario::Profile;

use crate::cli::args::COMMANDS;
use crate::cli::exit::{Exit, Failure};
use crate::cli::shown::{shown, unseen};
use crate::lab::load;
use crate::lab::variant::{Variant, parse_guards};

/// A scenario and the file that it came from; `None`: it is built in.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The scenario.
    pub scenario: Arc<Scenario>,
    /// Its file.
    pub file: Option<String>,
    /// The text of its file.
    pub text: Option<Arc<str>>,
    /// What it is called if another selected scenario has its name.
    pub called: Option<String>,
}

impl Selected {
    /// A built-in scenario.
    pub fn builtin(scenario: Arc<Scenario>) -> Selected {
        Selected { scenario, file: None, text: None, called: None }
    }

    /// The variant that lacks `without`.
    pub fn variant(&self, without: GuardSet) -> Variant {
        let variant = Variant::of(&self.scenario, self.file.as_deref(), without);
        Variant { text: self.text.clone(), called: self.called.clone(), ..variant }
    }
}

/// The scenario of this name that `text`, of a file, is.
///
/// # Errors
///
/// A text that does not load.
pub fn text(file: &str, text: &str, size: u8) -> Result<Selected, Failure> {
    let mut scenario = load::load(file, text, size)?;
    if scenario.name.chars().any(unseen) {
        // The name of the file, which may be anything.
        let name = shown(&scenario.name);
        scenario = Arc::new(Scenario { name, ..Scenario::clone(&scenario) });
    }
    let text = Some(Arc::from(text));
    Ok(Selected { scenario, file: Some(file.to_owned()), text, called: None })
}

/// The scenarios that `words` name, each once, in the order of the words; all built-in ones if
/// there are none.
///
/// # Errors
///
/// A name that does not exist, a pattern that matches nothing, a file that does not load.
pub fn scenarios(words: &[String], size: u8) -> Result<Vec<Selected>, Failure> {
    // Names are looked up at the default size: a built-in that does not fit another size is refused
    // only if it is named. One that is among many is left out, and said to be: always, since a run
    // that leaves something out in silence says more than it has seen.
    let builtin = load::builtin(1)?;
    let read = |path: &str| {
        let file = load::read(path)?;
        let all: Result<_, _> =
            file.names.iter().map(|name| text(name, &file.text, size)).collect();
        Ok((file.path, all?))
    };
    let selected = from(&builtin, words, read)?;
    if size == 1 {
        return Ok(selected);
    }
    let (mut fitting, mut last) = (Vec::new(), None);
    for mut one in selected {
        if one.file.is_some() {
            fitting.push(one);
            continue;
        }
        let name = one.scenario.name.clone();
        match load::builtin_named(&name, size) {
            Ok(scenario) => {
                one.scenario = scenario;
                fitting.push(one);
            }
            Err(failure) if words.contains(&name) => return Err(failure),
            Err(failure) => {
                say!("left out, because it does not fit --size {size}: {}", failure.message);
                last = Some(failure);
            }
        }
    }
    match last {
        Some(failure) if fitting.is_empty() => Err(failure),
        _ => Ok(fitting),
    }
}

/// [`scenarios`], with what is built in and how files are loaded.
fn from(
    builtin: &[Arc<Scenario>],
    words: &[String],
    load: impl Fn(&str) -> Result<(String, Vec<Selected>), Failure>,
) -> Result<Vec<Selected>, Failure> {
    let all = ["*".to_owned()];
    let mut selected: Vec<Selected> = Vec::new();
    let mut files: Vec<(PathBuf, Profile)> = Vec::new();
    for word in if words.is_empty() { &all } else { words } {
        if is_file(word) {
            // One file may have several paths, and one scenario of it may be named by itself.
            let (path, scenarios) = load(word)?;
            let file = fs::canonicalize(&path).unwrap_or_else(|_| PathBuf::from(path));
            for one in scenarios {
                let which = (file.clone(), one.scenario.profile);
                if !files.contains(&which) {
                    files.push(which);
                    selected.push(one);
                }
            }
            continue;
        }
        let matching: Vec<_> =
            builtin.iter().filter(|s| matches(word.as_bytes(), s.name.as_bytes())).collect();
        if matching.is_empty() {
            return Err(nothing(word, builtin));
        }
        for scenario in matching {
            if !selected.iter().any(|s| s.file.is_none() && s.scenario.name == scenario.name) {
                selected.push(Selected::builtin(Arc::clone(scenario)));
            }
        }
    }
    call_apart(&mut selected);
    Ok(selected)
}

/// Calls files by their paths where one name stands for several scenarios.
fn call_apart(selected: &mut [Selected]) {
    for i in 0..selected.len() {
        let same = |other: &&Selected| other.scenario.name == selected[i].scenario.name;
        if selected.iter().filter(same).count() > 1 {
            selected[i].called = selected[i].file.clone();
        }
    }
}

/// The one scenario that `word` names: of a file of several profiles the first, which has its name.
///
/// # Errors
///
/// As [`scenarios`], and a pattern that matches several.
pub fn scenario(word: &str, size: u8) -> Result<Selected, Failure> {
    let mut selected = scenarios(&[word.to_owned()], size)?;
    if is_file(word) {
        let others: Vec<&str> =
            selected.iter().skip(1).filter_map(|one| one.file.as_deref()).collect();
        if !others.is_empty() {
            let (word, others) = (shown(word), shown(&others.join(", ")));
            say!("{word} is several scenarios, of which this is the first; the others: {others}");
        }
        selected.truncate(1);
    }
    match (selected.len(), selected.pop()) {
        (1, Some(one)) => Ok(one),
        (several, _) => Err(Failure::usage(
            format!("'{word}' matches {several} scenarios and this command takes one"),
            "name one of those that 'kvmmu list' prints",
        )),
    }
}

/// The guards in `text`.
///
/// # Errors
///
/// A name that no guard has.
pub fn guards(text: &str) -> Result<GuardSet, Failure> {
    parse_guards(text).map_err(|name| {
        let releases = Release::ALL.iter().map(|release| release.name);
        let names = Guard::ALL.iter().map(|g| g.info().name).chain(releases);
        let hint = match closest(&name, names) {
            Some(near) => format!("did you mean '{near}'? 'kvmmu guards' lists all of them"),
            None => "'kvmmu guards' lists all of them".to_owned(),
        };
        Failure::usage(format!("unknown guard '{name}' in --without"), hint)
    })
}

/// The variants of `selected`: those of its expectations, or one for each of `sets`. A scenario
/// without expectations has the variant with every guard.
pub fn variants(selected: &Selected, sets: &[GuardSet]) -> Vec<Variant> {
    let expects = &selected.scenario.expects;
    let sets: Vec<GuardSet> = match (sets.is_empty(), expects.is_empty()) {
        (false, _) => sets.to_vec(),
        (true, false) => expects.iter().map(|e| e.without).collect(),
        (true, true) => vec![GuardSet::EMPTY],
    };
    sets.iter().map(|set| selected.variant(*set)).collect()
}

/// True if `word` is a path of a scenario file.
pub fn is_file(word: &str) -> bool {
    Path::new(word).extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"))
}

/// Why `word` selects nothing.
fn nothing(word: &str, builtin: &[Arc<Scenario>]) -> Failure {
    let list = "'kvmmu list' prints the scenarios; a file of your own ends in .toml";
    if let Some(command) = meant(word) {
        let help = format!("did you mean the command 'kvmmu {command}'? {list}");
        return Failure::usage(format!("no scenario and no command is called '{word}'"), help);
    }
    if word.contains(['*', '?']) {
        return Failure::new(Exit::Nothing, format!("no scenario matches '{word}'"), list);
    }
    let hint = match closest(word, builtin.iter().map(|s| s.name.as_str())) {
        Some(near) => format!("did you mean '{near}'? {list}"),
        None => list.to_owned(),
    };
    Failure::usage(format!("no scenario is called '{word}'"), hint)
}

/// True if `name` matches `pattern`, in which `*` stands for any text and `?` for one character.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            matches(&pattern[1..], name) || (!name.is_empty() && matches(pattern, &name[1..]))
        }
        (Some(b'?'), Some(_)) => matches(&pattern[1..], &name[1..]),
        (Some(a), Some(b)) if a == b => matches(&pattern[1..], &name[1..]),
        _ => false,
    }
}

/// The command that `word` was probably meant to be, a letter or two away.
fn meant(word: &str) -> Option<&'static str> {
    let word = word.to_lowercase();
    let near = COMMANDS.iter().map(|name| (distance(&word, name), *name)).min()?;
    (near.0 <= 2 && near.0 < near.1.len() / 2).then_some(near.1)
}

/// The name that `word` was probably meant to be.
fn closest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = &word.to_lowercase().replace('_', "-");
    let near = names.map(|name| (distance(word, name), name)).min()?;
    (near.0 <= 2.max(word.len() / 3)).then_some(near.1)
}

/// How many letters must be added, taken or changed to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (corner + usize::from(from != *to)).min(above + 1).min(row[j] + 1);
            corner = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("aba-*", "aba-direct", true),
            ("aba", "aba-direct", false),
            ("*", "", true),
            ("a?a*d*t", "aba-direct", true),
            ("lost-*", "aba-direct", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_misspelled_guard_is_named_with_the_one_that_was_meant() {
        let failure = guards("fast-fault-cmpxchg,fast-fualt-rewalk").unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().contains("'fast-fualt-rewalk'"));
        assert!(failure.help.contains("did you mean 'fast-fault-rewalk'"));
        assert_eq!(guards("fast-fault-cmpxchg").unwrap().iter().count(), 1);
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_exit_4_and_a_wrong_name_is_exit_2() {
        let none = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            from(&[], &words, |_| unreachable!()).unwrap_err().exit
        };
        assert_eq!(none(&["zzz*"]), Exit::Nothing);
        assert_eq!(none(&["zzz"]), Exit::Usage);
    }
}
