//! How scenarios are loaded: built-in ones by name, and files.

use std::path::Path;
use std::sync::Arc;

use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::builtin::FILES;
use kvmmu_scenarios::loader::{self, LoadError};

use crate::cli::exit::Failure;
use crate::cli::shown::shown;

/// The built-in scenarios at `size`, in order of their names.
///
/// # Errors
///
/// A built-in file that does not load.
pub fn builtin(size: u8) -> Result<Vec<Arc<Scenario>>, Failure> {
    let load = |(name, text): &(&str, &str)| {
        loader::load(name, text, size).map(Arc::new).map_err(|error| refused(&error))
    };
    FILES.iter().map(load).collect()
}

/// The built-in scenario `name` at `size`.
///
/// # Errors
///
/// A name that no built-in file has, a size that it does not fit.
pub fn builtin_named(name: &str, size: u8) -> Result<Arc<Scenario>, Failure> {
    let file = FILES.iter().find(|(file, _)| file.strip_suffix(".toml") == Some(name));
    let Some((file, text)) = file else {
        return Err(Failure::usage(
            format!("no scenario is called '{name}'"),
            "'kvmmu list' prints the scenarios",
        ));
    };
    loader::load(file, text, size).map(Arc::new).map_err(|error| refused(&error))
}

/// A scenario file.
#[derive(Clone, Debug)]
pub struct File {
    /// Its path.
    pub path: String,
    /// What it says.
    pub text: Arc<str>,
    /// The names of those of its scenarios that were asked for.
    pub names: Vec<String>,
}

/// The file that a path names. One of several profiles is several scenarios; the path may be that
/// of one of them, too (`my-race-v6.12.toml` of `my-race.toml`).
///
/// # Errors
///
/// A file that cannot be read, or one of whose scenarios has the path of another file.
pub fn read(path: &str) -> Result<File, Failure> {
    let error = match loader::read(Path::new(path)) {
        Ok(text) => {
            let names = loader::names(path, &text).map_err(|error| refused(&error))?;
            if let Some(other) = names.iter().skip(1).find(|name| Path::new(name).exists()) {
                return Err(Failure::usage(
                    format!(
                        "'{}' is a file, and a scenario of '{}' is called so",
                        shown(other),
                        shown(path)
                    ),
                    "a file of several profiles is a scenario for each: rename one of the two",
                ));
            }
            return Ok(File { path: path.to_owned(), text: Arc::from(text), names });
        }
        Err(error) => error,
    };
    let Some(whole) = path.rfind("-v").map(|at| format!("{}.toml", &path[..at])) else {
        return Err(refused(&error));
    };
    let Ok(text) = loader::read(Path::new(&whole)) else { return Err(refused(&error)) };
    // Why it has no such scenario may be that it does not load.
    loader::load(&whole, &text, 1).map_err(|error| refused(&error))?;
    let names = loader::names(&whole, &text).map_err(|error| refused(&error))?;
    if !names.iter().any(|name| name == path) {
        return Err(Failure::usage(
            format!("'{}' is neither a file nor a scenario of '{}'", shown(path), shown(&whole)),
            format!("its scenarios are {}", shown(&names.join(", "))),
        ));
    }
    Ok(File { path: whole, text: Arc::from(text), names: vec![path.to_owned()] })
}

/// The scenario that `text`, of a file of this name, is; of several that which the name is of.
///
/// # Errors
///
/// A text that does not load.
pub fn load(file: &str, text: &str, size: u8) -> Result<Arc<Scenario>, Failure> {
    loader::load(file, text, size).map(Arc::new).map_err(|error| refused(&error))
}

/// Why a scenario file does not load, with its place and the next thing to try.
fn refused(error: &LoadError) -> Failure {
    let text = error.to_string();
    let message = text.split_once("\n  help: ").map_or(text.as_str(), |(message, _)| message);
    Failure::usage(message, error.hint.clone())
}
