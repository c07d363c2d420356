//! The binary: hands the command line to the library and its outcome to the system.

fn main() -> std::process::ExitCode {
    wayinfer::cli::main()
}
