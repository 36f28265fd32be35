//! What the program says of itself.

use crate::support::{Ran, program};

#[test]
fn no_arguments_print_the_usage_and_the_version_is_told() {
    let usage = Ran::of(&mut program());
    assert_eq!((usage.code, usage.out.as_str()), (2, ""));
    assert!(usage.err.contains("Usage: cabbage-cli") && usage.err.contains("defer"), "{usage:?}");
    let version = Ran::of(program().arg("--version"));
    assert_eq!((version.code, version.out.trim()), (0, concat!("cabbage-cli ", env!("CARGO_PKG_VERSION"))));
    let help = Ran::of(program().arg("--help"));
    assert!(help.code == 0 && help.out.contains("Exit codes: 0 ok"), "{help:?}");
}
