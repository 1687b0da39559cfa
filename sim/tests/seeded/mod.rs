//! The settings of the tests that draw random programs.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// The same programs in every run, unless the environment says otherwise (`PROPTEST_RNG_SEED`).
pub(crate) fn config() -> ProptestConfig {
    let from_environment = ProptestConfig::default();
    let rng_seed = match from_environment.rng_seed {
        RngSeed::Random => RngSeed::Fixed(2),
        fixed => fixed,
    };
    ProptestConfig {
        rng_seed,
        failure_persistence: None,
        max_global_rejects: 100_000,
        ..from_environment
    }
}
