//! Lock orders as JSON: what a shard of a run has to hand on, so that cycles through the scenarios
//! of several shards are found.

use kvmmu_model::lock::{Hold, LockClass, LockKind, Mode, Section};
use kvmmu_scenarios::loader;
use kvmmu_scenarios::lockdep::{LockOrders, Nesting};
use serde::{Deserialize, Serialize};

use crate::cli::shown::unseen;

/// A lock that was taken inside another. How often depends on timing, where threads share a search.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Order {
    outer: Held,
    inner: Held,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
struct Held {
    lock: String,
    /// Of a lock that a scenario file declares: what it declares.
    #[serde(skip_serializing_if = "Option::is_none")]
    own: Option<Own>,
    #[serde(with = "ModeName")]
    mode: Mode,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
struct Own {
    kind: String,
    file: String,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Mode", rename_all = "kebab-case")]
enum ModeName {
    Exclusive,
    Read,
    Synchronize,
}

impl Held {
    fn of(hold: Hold) -> Held {
        let info = hold.class.info();
        let own = match (hold.class, info.section) {
            (LockClass::Own(_), Section::File(file)) => {
                Some(Own { kind: info.kind.name().to_owned(), file: file.to_owned() })
            }
            _ => None,
        };
        Held { lock: info.name.to_owned(), own, mode: hold.mode }
    }

    fn hold(&self) -> Result<Hold, String> {
        let Held { lock, own, mode } = self;
        let class = match own {
            None => LockClass::by_name(lock),
            // Its name is printed as it is.
            Some(_) if lock.chars().any(unseen) => None,
            Some(own) => LockKind::ALL
                .into_iter()
                .find(|kind| kind.name() == own.kind)
                .map(|kind| loader::own_lock(lock, kind, &own.file)),
        };
        Ok(Hold::new(class.ok_or_else(|| format!("no lock is called '{lock}'"))?, *mode))
    }
}

/// `orders` in their order.
pub fn written(orders: &LockOrders) -> Vec<Order> {
    let order =
        |(Nesting { outer, inner }, _)| Order { outer: Held::of(outer), inner: Held::of(inner) };
    orders.nestings().map(order).collect()
}

/// What [`written`] was given, but for how often each lock was taken: once.
///
/// # Errors
///
/// A lock that there is not.
pub fn read(orders: &[Order]) -> Result<LockOrders, String> {
    let mut read = LockOrders::default();
    for Order { outer, inner } in orders {
        read.count([outer.hold()?].into_iter(), inner.hold()?, 1);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_were_written() {
        let mut orders = LockOrders::default();
        let own = loader::own_lock("dev->lock", LockKind::Rwlock, "my-race");
        let classes: Vec<LockClass> = LockClass::ALL.iter().copied().chain([own]).collect();
        for (i, outer) in classes.iter().enumerate() {
            let inner = classes[(i + 1) % classes.len()];
            for mode in [Mode::Exclusive, Mode::Read, Mode::Synchronize] {
                let outer = Hold::new(*outer, Mode::Read);
                orders.count([outer].into_iter(), Hold::new(inner, mode), 1);
            }
        }
        let text = serde_json::to_string(&written(&orders)).unwrap();
        let again = read(&serde_json::from_str::<Vec<Order>>(&text).unwrap()).unwrap();
        assert!(again.nestings().eq(orders.nestings()));
        let wrong = text.replacen("\"kvm_lock\"", "\"no_lock\"", 1);
        let wrong: Vec<Order> = serde_json::from_str(&wrong).unwrap();
        assert_eq!(read(&wrong), Err("no lock is called 'no_lock'".to_owned()));
    }
}
