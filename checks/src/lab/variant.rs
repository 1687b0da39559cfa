//! A variant: a scenario and the guards that it lacks, with what is expected of it.

use std::sync::Arc;

use kvmmu_model::{Guard, GuardSet, Release};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::scenario::{Expect, Expected, Witness};
use kvmmu_sim::rule::Rule;
use kvmmu_sim::schedule::{Schedule, StampedSchedule};

use crate::cli::shown::{shown, unseen};

/// A scenario with some guards removed.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The scenario.
    pub scenario: Arc<Scenario>,
    /// The file that it came from; `None`: it is built in.
    pub file: Option<String>,
    /// The text of that file.
    pub text: Option<Arc<str>>,
    /// What the scenario is called if another has its name.
    pub called: Option<String>,
    /// The guards that are removed.
    pub without: GuardSet,
    /// What is expected, if anything.
    pub expect: Option<Expect>,
    /// False: the command line says that the use of locks is not to be checked.
    pub lock_checks: bool,
}

/// What a counterexample must show.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Goal {
    /// The rule that must be violated; `None`: any.
    pub rule: Option<Rule>,
    /// What it must pass on the way.
    pub story: Option<Witness>,
}

impl Variant {
    /// The variant that lacks `without`, with the scenario's own expectation of it.
    pub fn of(scenario: &Arc<Scenario>, file: Option<&str>, without: GuardSet) -> Variant {
        let expect = scenario.expects.iter().find(|e| e.without == without).cloned();
        let (scenario, file) = (Arc::clone(scenario), file.map(str::to_owned));
        let (text, called) = (None, None);
        Variant { scenario, file, text, called, without, expect, lock_checks: true }
    }

    /// The same variant, and the use of locks is not checked if `off`.
    #[must_use]
    pub fn lock_checks_off(self, off: bool) -> Variant {
        if !off {
            return self;
        }
        let scenario = Scenario { lock_checks: false, ..Scenario::clone(&self.scenario) };
        Variant { scenario: Arc::new(scenario), lock_checks: false, ..self }
    }

    /// What `check` and `explain` look for.
    pub fn goal(&self) -> Goal {
        match &self.expect {
            Some(e) if e.verdict == Expected::Violated => {
                Goal { rule: e.property.map(Rule::from), story: e.story.clone() }
            }
            _ => Goal::default(),
        }
    }

    /// True if a run of a file that breaks nothing says nothing more: no witness has to be seen,
    /// and no other variant has to fail.
    pub fn shows_nothing(&self) -> bool {
        let fails = |e: &Expect| e.verdict == Expected::Violated;
        let scenario = &self.scenario;
        self.file.is_some() && scenario.sometimes.is_empty() && !scenario.expects.iter().any(fails)
    }

    /// `aba-indirect without fast-fault-direct-only + lockless-walk-mode`.
    pub fn name(&self) -> String {
        let name = shown(self.called.as_ref().unwrap_or(&self.scenario.name));
        match self.without.is_empty() {
            true => name,
            false => format!("{name} without {}", join(self.without, " + ")),
        }
    }

    /// The directory of its trace, below that of all traces.
    pub fn directory(&self) -> String {
        let variant = match self.without.is_empty() {
            true => "all-guards".to_owned(),
            false => join(self.without, "+"),
        };
        let name = plain_name(&self.scenario.name);
        match &self.file {
            None => format!("{name}/{variant}"),
            // Two files may have one name, and a file may have the name of a built-in scenario.
            Some(_) => {
                let stamp = fingerprint(&self.scenario, GuardSet::EMPTY);
                format!("{name}-{stamp:08x}/{variant}")
            }
        }
    }

    /// The schedule with the fingerprint of this variant.
    pub fn stamp(&self, schedule: &Schedule) -> StampedSchedule {
        StampedSchedule {
            fingerprint: fingerprint(&self.scenario, self.without),
            schedule: schedule.clone(),
        }
    }

    /// The words after `kvmmu VERB` that name this variant.
    pub fn arguments(&self) -> String {
        let mut text = shell_word(self.file.as_deref().unwrap_or(&self.scenario.name));
        if !self.without.is_empty() {
            text += &format!(" --without {}", join(self.without, ","));
        }
        if self.scenario.size != 1 {
            text += &format!(" --size {}", self.scenario.size);
        }
        if !self.lock_checks {
            text += " --no-lock-checks";
        }
        text
    }

    /// The one command that replays `schedule`.
    pub fn replay_command(&self, schedule: &Schedule) -> String {
        format!("kvmmu replay {} --schedule {}", self.arguments(), self.stamp(schedule))
    }
}

/// A scenario's name as the name of a directory, which must not lead elsewhere.
fn plain_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    name.chars().map(|c| if plain(c) { c } else { '_' }).take(80).collect()
}

/// A word as a shell must be given it.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+=:@,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    if word.chars().any(unseen) {
        let bytes: String = word.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        return format!("$'{bytes}'");
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The names of guards with `between` between them; that of a release, if it lacks just these.
pub fn join(guards: GuardSet, between: &str) -> String {
    if let Some(release) = Release::that_lacks(guards) {
        return release.name.to_owned();
    }
    let names: Vec<&str> = guards.iter().map(|g| g.info().name).collect();
    names.join(between)
}

/// The guards that `text`, a list with commas, names; a release stands for what it lacks.
///
/// # Errors
///
/// The first name that no guard has.
pub fn parse_guards(text: &str) -> Result<GuardSet, String> {
    let mut guards = GuardSet::EMPTY;
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        guards = match (Guard::by_name(name), Release::by_name(name)) {
            (Some(guard), _) => guards.with(guard),
            (None, Some(release)) => release.lacks().iter().fold(guards, GuardSet::with),
            (None, None) => return Err(name.to_owned()),
        };
    }
    Ok(guards)
}

/// Hashes what a schedule depends on: format, scenario, missing guards and the sources of model,
/// scenarios and sim. The prose of the scenario, its expectations and whether
/// locks are checked do not count.
pub fn fingerprint(scenario: &Scenario, without: GuardSet) -> u32 {
    let mut bare = scenario.clone();
    bare.title.clear();
    bare.source.clear();
    bare.about.clear();
    bare.expects.clear();
    bare.lock_checks = true;
    let guards: Vec<&str> = without.iter().map(|g| g.info().name).collect();
    let text = format!("v1\n{bare:?}\n{guards:?}\n{}", env!("KVMMU_SOURCE_HASH"));
    let hash = hash(&text);
    (hash >> 32) as u32 ^ hash as u32
}

/// 64-bit FNV-1a.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
