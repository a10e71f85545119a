//! The `imagewell` program. See `imagewell --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    imagewell::cli::run()
}
