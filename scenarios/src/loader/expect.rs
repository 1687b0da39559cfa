//! `[check]` and `[[expect]]`: what must hold, what must be seen, and what breaks without what.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use kvmmu_model::{Guard, GuardSet, Mark, Release};

use super::arch;
use super::error::{LoadError, quoted};
use super::profile;
use super::table::{Table, Text};
use super::threads::{self, Draft};
use crate::property::Property;
use crate::scenario::{Arch, Engine, Expect, Expected, Profile, SOMETIMES_MAX, Thread, Witness};
use crate::story::{Moment, Story};

const VERDICTS: &[(&str, Expected)] =
    &[("holds", Expected::Holds), ("violated", Expected::Violated)];
const ENGINES: &[(&str, Engine)] =
    &[("skip", Engine::Skip), ("holds", Engine::Holds), ("violated", Engine::Violated)];

/// What is checked whether the file says so or not.
const IMPLIED: [Property; 5] = [
    Property::SlotBounds,
    Property::UseAfterFree,
    Property::Deadlock,
    Property::Livelock,
    Property::EnoughPages,
];

/// The threads that a witness may name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast<'a> {
    pub(super) arch: Arch,
    /// The profile that the file is read for.
    pub(super) profile: Profile,
    /// All that it names.
    pub(super) of: &'a [Profile],
    pub(super) drafts: &'a [Draft<'a>],
    pub(super) threads: &'a [Thread],
}

/// Checked too, unless the file has `lock-checks = false`.
const LOCKS: [Property; 6] = [
    Property::LockOrder,
    Property::LockCycle,
    Property::LockSleep,
    Property::LockLeaf,
    Property::LockProtection,
    Property::LockUsage,
];

/// `[check]`, read.
pub(super) struct Check {
    pub(super) always: Vec<Property>,
    pub(super) sometimes: Vec<Witness>,
    pub(super) lock_checks: bool,
}

/// What is checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched<'a> {
    pub(super) arch: Arch,
    pub(super) always: &'a [Property],
    pub(super) lock_checks: bool,
}

/// `[check]`
pub(super) fn check(root: &Table<'_>, cast: Cast<'_>) -> Result<Check, LoadError> {
    let Some(table) = root.table("check", "[check]")? else {
        return Err(root.missing("check", "[check] with always = [\"migration\"]"));
    };
    profile::check_keys(&table, cast.of)?;
    let profiles = cast.of.iter().map(|profile| profile::name(*profile));
    let keys: Vec<&str> =
        ["always", "sometimes", "lock-checks"].into_iter().chain(profiles).collect();
    table.only(&keys)?;
    let lock_checks = table.flag("lock-checks")?.unwrap_or(true);
    let mut always = Vec::new();
    for text in table.texts("always")? {
        let property = property(&text, cast.arch)?;
        if LOCKS.contains(&property) && !lock_checks {
            return Err(unchecked_lock(&text));
        }
        if always.contains(&property) {
            return Err(
                text.error(format!("{} twice", quoted(text.value)), "remove one of the two")
            );
        }
        always.push(property);
    }
    for implied in IMPLIED {
        if !always.contains(&implied) {
            always.push(implied);
        }
    }
    let mut sometimes = table.texts("sometimes")?;
    for profile in cast.of {
        let Some(own) = table.table(profile::name(*profile), "a profile in [check]")? else {
            continue;
        };
        own.only(&["sometimes"])?;
        if *profile == cast.profile {
            sometimes.extend(own.texts("sometimes")?);
        }
    }
    if let Some(text) = sometimes.get(SOMETIMES_MAX) {
        return Err(text.error(
            format!("witness {} of 'sometimes'", SOMETIMES_MAX + 1),
            format!("at most {SOMETIMES_MAX} fit: split the scenario"),
        ));
    }
    let sometimes =
        sometimes.iter().map(|text| witness(text, cast)).collect::<Result<Vec<_>, _>>()?;
    Ok(Check { always, sometimes, lock_checks })
}

fn property(text: &Text<'_>, arch: Arch) -> Result<Property, LoadError> {
    let legal = || {
        let all = Property::ALL.iter().filter(|property| arch.has_property(**property));
        all.map(|property| property.name()).collect::<Vec<&str>>()
    };
    match Property::by_name(text.value) {
        Some(property) if arch.has_property(property) => Ok(property),
        Some(_) => Err(arch.lacks(text.source, text.at(0), "property", text.value, legal())),
        None => Err(text.source.unknown(text.at(0), "property", text.value, &legal())),
    }
}

/// `mark`, `mark@thread`, or several of them joined by `<`.
fn witness(text: &Text<'_>, cast: Cast<'_>) -> Result<Witness, LoadError> {
    text.plain_spaces()?;
    let mut moments = Vec::new();
    for part in text.split('<') {
        let part = part.trimmed();
        let sides = part.split('@');
        let (name, thread) = match sides.as_slice() {
            [name] => (name.trimmed(), None),
            [name, thread] => (name.trimmed(), Some(thread.trimmed())),
            _ => {
                return Err(part.error(
                    format!("{} is no moment", quoted(part.value)),
                    "write mark or mark@thread, and '<' between moments",
                ));
            }
        };
        let legal = || {
            let all = Mark::ALL.iter().filter(|mark| cast.arch.has_mark(**mark));
            all.map(|mark| mark.name()).collect::<Vec<&str>>()
        };
        let Some(mark) = Mark::ALL.iter().copied().find(|m| m.name() == name.value) else {
            return Err(text.source.unknown(name.at(0), "mark", name.value, &legal()));
        };
        if !cast.arch.has_mark(mark) {
            return Err(cast.arch.lacks(text.source, name.at(0), "mark", name.value, legal()));
        }
        let thread = thread.map(|t| threads::index(&t, cast.drafts, cast.threads)).transpose()?;
        moments.push(Moment { mark, thread });
    }
    Ok(Witness { text: text.value.into(), story: Story(moments) })
}

/// `[[expect]]`
pub(super) fn expects(
    root: &Table<'_>,
    cast: Cast<'_>,
    watching: Watched<'_>,
    size: u8,
) -> Result<Vec<Expect>, LoadError> {
    let mut expects: Vec<Expect> = Vec::new();
    for table in root.tables("expect", "an [[expect]]")? {
        if !profile::includes(&table, cast.profile, cast.of)? {
            continue;
        }
        let expect = expect(&table, cast, watching, size)?;
        if expects.iter().any(|e| e.without == expect.without) {
            return Err(root.source.error(
                table.place("without"),
                "a second expectation for the same missing guards",
                "join the two, or change 'without'",
            ));
        }
        if expects.is_empty() && !expect.without.is_empty() {
            return Err(root.source.error(
                table.place("without"),
                match cast.of.len() {
                    1 => "the first expectation has guards missing".into(),
                    _ => format!(
                        "the first expectation of {} has guards missing",
                        profile::name(cast.profile)
                    ),
                },
                "begin with the one for every guard: without = [] and verdict = \"holds\"",
            ));
        }
        expects.push(expect);
    }
    Ok(expects)
}

fn expect(
    table: &Table<'_>,
    cast: Cast<'_>,
    watching: Watched<'_>,
    size: u8,
) -> Result<Expect, LoadError> {
    table.only(&[
        "profile",
        "without",
        "verdict",
        "property",
        "story",
        "because",
        "dpor-executions",
        "engines",
    ])?;
    if !table.has("without") {
        return Err(table.missing("without", "without = []"));
    }
    let without = guards(table, cast)?;
    let text = table.need_text("verdict", "verdict = \"holds\"")?;
    let verdict = text.choose("verdict", VERDICTS)?;
    let property = table.text("property")?.map(|t| watched(&t, watching)).transpose()?;
    let story = table.text("story")?.map(|t| witness(&t, cast)).transpose()?;
    match verdict {
        Expected::Violated if property.is_none() => {
            let example = "property = \"migration\"   # which property is violated";
            return Err(table.missing("property", example));
        }
        Expected::Violated if story.is_none() && !property.is_some_and(tells) => {
            let example = "story = \"mark-dirty < harvest\"   # what the counterexample passes";
            return Err(table.missing("story", example));
        }
        Expected::Holds => {
            if let Some(key) = ["property", "story"].into_iter().find(|k| table.has(k)) {
                return Err(table.source.error(
                    table.place(key),
                    format!("'{key}' with verdict = \"holds\""),
                    "remove it, or set verdict = \"violated\"",
                ));
            }
        }
        Expected::Violated => {}
    }
    let (loom, shuttle) = engines(table)?;
    let executions = table.integer("dpor-executions", 1..=u64::MAX)?.map(|n| n.value);
    Ok(Expect {
        without,
        verdict,
        property,
        story,
        // The number is that of the default size.
        dpor_executions: executions.filter(|_| size == 1),
        loom,
        shuttle,
        because: table.text("because")?.map_or(String::new(), |t| t.value.trim().into()),
    })
}

/// A violation that is a story by itself: programs of locks set no marks.
fn tells(property: Property) -> bool {
    LOCKS.contains(&property) || property == Property::Deadlock
}

fn guards(table: &Table<'_>, cast: Cast<'_>) -> Result<GuardSet, LoadError> {
    let of = cast.arch;
    let mut without = GuardSet::EMPTY;
    let legal = || {
        let judged = Guard::ALL.iter().filter(|g| of.has_guard(**g) && g.is_judged_under_sc());
        judged.map(|g| g.info().name).collect::<Vec<&str>>()
    };
    for text in table.texts("without")? {
        if let Some(release) = Release::by_name(text.value) {
            if !release.lacks().iter().all(|guard| of.has_guard(guard)) {
                return Err(of.lacks(text.source, text.at(0), "release", text.value, legal()));
            }
            without = release.lacks().iter().fold(without, GuardSet::with);
            continue;
        }
        let Some(guard) = Guard::by_name(text.value) else {
            return Err(text.source.unknown(text.at(0), "guard", text.value, &legal()));
        };
        if !of.has_guard(guard) {
            return Err(of.lacks(text.source, text.at(0), "guard", text.value, legal()));
        }
        if let Some((when, other)) = arch::not_asked(guard, cast.profile) {
            return Err(text.error(
                format!(
                    "guard {} is of kernels {when}, and the profile is {}",
                    quoted(text.value),
                    profile::name(cast.profile)
                ),
                format!("say of which profile the expectation is: profile = \"{other}\""),
            ));
        }
        if without.contains(guard) {
            return Err(
                text.error(format!("{} twice", quoted(text.value)), "remove one of the two")
            );
        }
        if !guard.is_judged_under_sc() {
            return Err(unjudged(&text));
        }
        without = without.with(guard);
    }
    Ok(without)
}

/// A guard of which no run of an expectation can say anything.
fn unjudged(text: &Text<'_>) -> LoadError {
    let message = format!("{} is a fence: not judged under SC", quoted(text.value));
    let help = "remove it from 'without': sequential consistency cannot show that it is missing";
    text.error(message, help)
}

/// A property of locks, where they are not checked.
fn unchecked_lock(text: &Text<'_>) -> LoadError {
    let message = format!("{} is not checked", quoted(text.value));
    text.error(message, "remove lock-checks = false from [check], or name another property")
}

/// A property that is checked.
fn watched(text: &Text<'_>, watched: Watched<'_>) -> Result<Property, LoadError> {
    let property = property(text, watched.arch)?;
    if watched.always.contains(&property) {
        return Ok(property);
    }
    if LOCKS.contains(&property) {
        return if watched.lock_checks { Ok(property) } else { Err(unchecked_lock(text)) };
    }
    Err(text.error(
        format!("{} is not checked", quoted(text.value)),
        format!("add \"{}\" to 'always' in [check]", text.value),
    ))
}

fn engines(table: &Table<'_>) -> Result<(Engine, Engine), LoadError> {
    let Some(engines) = table.table("engines", "'engines'")? else {
        return Ok((Engine::Skip, Engine::Skip));
    };
    engines.only(&["loom", "shuttle"])?;
    let read = |key: &str| match engines.text(key)? {
        Some(text) => text.choose("verdict of an engine", ENGINES),
        None => Ok(Engine::Skip),
    };
    Ok((read("loom")?, read("shuttle")?))
}
