//! The `imagewell` program under a name of its own: built optimised, it doesn't take the place of the one that tests start.

use std::process::ExitCode;

fn main() -> ExitCode {
    imagewell::cli::run()
}
