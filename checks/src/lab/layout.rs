//! Layouts of SPTEs, by name.

use kvmmu_scenarios::loader::FORMATS;
use kvmmu_scenarios::scenario::Format;

/// The layout of SPTEs that is called so.
///
/// # Errors
///
/// A name that no layout has, with those that there are.
pub fn layout(name: &str) -> Result<Format, String> {
    let found = FORMATS.iter().find(|(known, _)| *known == name);
    found.map(|(_, format)| *format).ok_or_else(|| {
        let names: Vec<&str> = FORMATS.iter().map(|(name, _)| *name).collect();
        format!("there are {}", names.join(", "))
    })
}
