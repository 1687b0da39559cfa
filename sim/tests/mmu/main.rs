//! Goal: the model's MMU on the simulated hardware keeps its promises, and breaks them where a step
//! is left out. Method: small scenarios, each about one thing, every interleaving.

mod arm64;
mod harvests;
mod host_mm;
mod initial_state;
mod memslots;
mod own_locks;
mod profiles;
mod shadow;
mod small;
mod tlbi;
