//! Checks the promises of the KVM MMU on a live `/dev/kvm`.

fn main() {}
