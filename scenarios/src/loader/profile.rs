//! `profile`: whose algorithms. A file may name several of one architecture, and is a scenario for
//! each then.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
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
    let texts = texts(root)?;
    let mut profiles: Vec<Profile> = Vec::new();
    for text in &texts {
        let profile = text.choose("profile", &PROFILES)?;
        if profiles.contains(&profile) {
            return Err(
                text.error(format!("{} twice", quoted(text.value)), "remove one of the two")
            );
        }
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
    match (texts.is_empty(), root.has("profile")) {
        (false, _) => Ok(profiles),
        (true, false) => Ok(vec![Profile::Fixed]),
        (true, true) => Err(root.source.error(
            root.place("profile"),
            "'profile' names none",
            format!("legal here: {}", listed(PROFILES.map(|(name, _)| name))),
        )),
    }
}

/// One string, or a list of them.
fn texts<'a>(table: &Table<'a>) -> Result<Vec<Text<'a>>, LoadError> {
    match table.is_list("profile") {
        true => table.texts("profile"),
        false => Ok(table.text("profile")?.into_iter().collect()),
    }
}

/// True if an expectation is of this profile: it says of which it is, or is of all.
pub(super) fn includes(
    table: &Table<'_>,
    profile: Profile,
    of: &[Profile],
) -> Result<bool, LoadError> {
    let texts = texts(table)?;
    let mut included = texts.is_empty();
    for text in texts {
        let named = text.choose("profile", &PROFILES)?;
        if !of.contains(&named) {
            return Err(text.error(
                format!("{} is no profile of this file", quoted(text.value)),
                "add it to 'profile' at the top, or remove it here",
            ));
        }
        included |= named == profile;
    }
    Ok(included)
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
