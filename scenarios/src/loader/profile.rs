//! `profile`: whose algorithms. A file may name several of one architecture, and is a scenario for
//! each then.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use toml::de::DeTable;

use super::PROFILES;
use super::error::{LoadError, Source, listed, quoted};
use super::table::{Table, Text};
use crate::scenario::Profile;

/// Which scenario of a file is to be read.
pub(super) struct Chosen {
    pub(super) profile: Profile,
    /// All profiles of the file.
    pub(super) of: Vec<Profile>,
    /// The name of the file.
    pub(super) file: String,
}

/// The names by which [`super::load`] knows the scenarios of a file: its own for the first profile
/// that it names, and for each other one that with the version before `.toml`. Of a text that does
/// not load, its own.
///
/// # Errors
///
/// The name of the file is what one of its own scenarios would be called.
pub fn names(file_name: &str, text: &str) -> Result<Vec<String>, LoadError> {
    let mut names = alloc::vec![file_name.to_string()];
    let source = Source { file: file_name, text };
    let Ok(document) = DeTable::parse(text) else { return Ok(names) };
    let root = Table::root(source, &document);
    let others = read(&root).unwrap_or_default().into_iter().skip(1);
    for profile in others {
        if stem_of(file_name).ends_with(version(profile)) {
            return Err(source.error(
                root.place("profile"),
                format!(
                    "a file of several profiles has a name that ends in '{}'",
                    version(profile)
                ),
                "so its scenario of that profile is called: give the file another name",
            ));
        }
        names.push(with_version(file_name, profile));
    }
    Ok(names)
}

/// The one that this name is of.
pub(super) fn choose(root: &Table<'_>, name: &str) -> Result<Chosen, LoadError> {
    let of = read(root)?;
    let mut others = of.iter().skip(1).map(|profile| (*profile, version(*profile)));
    let named = others.find_map(|(profile, version)| {
        let stem = stem_of(name);
        let file = stem.strip_suffix(version)?;
        Some((profile, format!("{file}{}", &name[stem.len()..])))
    });
    let (profile, file) = named.unwrap_or_else(|| (of[0], name.to_string()));
    Ok(Chosen { profile, of, file })
}

fn read(root: &Table<'_>) -> Result<Vec<Profile>, LoadError> {
    let mut profiles: Vec<Profile> = Vec::new();
    for (text, profile) in named(root)? {
        if profiles.first().is_some_and(|first| first.arch() != profile.arch()) {
            return Err(text.error(
                format!("{} is of another architecture than the first profile", quoted(text.value)),
                "a file is of one architecture: write another file",
            ));
        }
        if !profiles.is_empty() && version(profile).is_empty() {
            return Err(text.error(
                format!("{} has no version, and is not the first", quoted(text.value)),
                "a scenario of another profile is called by its version: name it first",
            ));
        }
        profiles.push(profile);
    }
    if profiles.is_empty() {
        profiles.push(Profile::Fixed);
    }
    Ok(profiles)
}

/// What 'profile' names, each once: one string, or a list of them. Nothing without the key.
fn named<'a>(table: &Table<'a>) -> Result<Vec<(Text<'a>, Profile)>, LoadError> {
    let texts = match table.is_list("profile") {
        true => table.texts("profile")?,
        false => table.text("profile")?.into_iter().collect(),
    };
    if texts.is_empty() && table.has("profile") {
        return Err(table.source.error(
            table.place("profile"),
            "'profile' names none",
            format!("legal here: {}", listed(PROFILES.map(|(name, _)| name))),
        ));
    }
    let mut named: Vec<(Text<'a>, Profile)> = Vec::new();
    for text in texts {
        let profile = text.choose("profile", &PROFILES)?;
        if named.iter().any(|(_, other)| *other == profile) {
            return Err(
                text.error(format!("{} twice", quoted(text.value)), "remove one of the two")
            );
        }
        named.push((text, profile));
    }
    Ok(named)
}

/// True if an expectation is of this profile: it says of which it is, or is of all.
pub(super) fn includes(
    table: &Table<'_>,
    profile: Profile,
    of: &[Profile],
) -> Result<bool, LoadError> {
    let named = named(table)?;
    if let Some((text, _)) = named.iter().find(|(_, named)| !of.contains(named)) {
        return Err(not_here(text));
    }
    Ok(named.is_empty() || named.iter().any(|(_, named)| *named == profile))
}

/// Refuses a part of `[check]` that is of a profile which the file does not have.
pub(super) fn check_keys(table: &Table<'_>, of: &[Profile]) -> Result<(), LoadError> {
    let other = |key: &Text<'_>| {
        PROFILES.iter().any(|(name, profile)| *name == key.value && !of.contains(profile))
    };
    table.keys().iter().find(|key| other(key)).map_or(Ok(()), |key| Err(not_here(key)))
}

fn not_here(text: &Text<'_>) -> LoadError {
    text.error(
        format!("{} is no profile of this file", quoted(text.value)),
        "add it to 'profile' at the top, or remove it here",
    )
}

/// As files name it.
pub(super) fn name(profile: Profile) -> &'static str {
    PROFILES.iter().find(|(_, other)| *other == profile).map_or("", |(name, _)| name)
}

/// `-v6.12` of `arm64-v6.12`.
fn version(profile: Profile) -> &'static str {
    let name = name(profile);
    name.find("-v").map_or("", |at| &name[at..])
}

fn with_version(file_name: &str, profile: Profile) -> String {
    let stem = stem_of(file_name);
    format!("{stem}{}{}", version(profile), &file_name[stem.len()..])
}

fn stem_of(file_name: &str) -> &str {
    file_name.strip_suffix(".toml").unwrap_or(file_name)
}
