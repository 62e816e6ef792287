//! Accepts the command lines of other tools that register handlers. The name under which qus is started selects the
//! tool.
//!
//! Each command line is translated into commands of qus, and their reports are translated into the output of the other
//! tool. Three differences from the other tools are intended: a failure changes the exit status, every interpreter is
//! registered with `F` and verified, and only handlers of QEMU's emulators are removed (rule 4 of docs/design.md).

mod binfmt;
mod conf;
mod getopt;
mod register_script;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;

use anyhow::Result;

use crate::base::output::{Output, Status};
use crate::base::terminal::{Terminal, TextWriter};
use crate::binfmt::instance::DEFAULT_PATH;
use crate::commands::args::Common;
use crate::commands::instance::open_to_register;
use crate::commands::register::{self, Register, RegisterReport};
use crate::commands::report::Report;
use crate::commands::reset::{self, Reset, ResetReport};
use crate::interpreter::bundle::own_bundle;
use crate::system::file_id::file_name;

/// Other tool whose command line qus accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompatTool {
    /// `binfmt` of tonistiigi/binfmt, which docker/setup-qemu-action calls.
    Binfmt,
    /// `register.sh` of dbhi/qus.
    Dbhi,
    /// `/register` of multiarch/qemu-user-static.
    Multiarch,
    /// `qemu-binfmt-conf.sh` of QEMU.
    Conf,
}

/// Names under which qus can be started, each with the other tool that it selects.
const NAMES: [(&str, CompatTool); 8] = [
    ("binfmt", CompatTool::Binfmt),
    ("register.sh", CompatTool::Dbhi),
    ("dbhi-qus", CompatTool::Dbhi),
    ("qus-static.sh", CompatTool::Dbhi),
    ("register", CompatTool::Multiarch),
    ("multiarch", CompatTool::Multiarch),
    ("qemu-user-static", CompatTool::Multiarch),
    ("qemu-binfmt-conf.sh", CompatTool::Conf),
];

impl CompatTool {
    /// Returns the tool that `argv[0]`, the name under which qus was started, selects. Returns `None` if qus acts as
    /// itself.
    #[must_use]
    pub fn called(argv0: &OsStr) -> Option<Self> {
        let name = file_name(Path::new(argv0));
        NAMES.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, tool)| *tool)
    }

    /// Executes the arguments `words` of this tool's command line. Writes the tool's output to `data` and its messages
    /// to `messages`.
    ///
    /// Returns an error if a command of qus fails. If the command line is invalid, prints the usage of the tool and
    /// returns [`Status::Failed`].
    pub fn run(self, words: &[OsString], data: &mut dyn Write, messages: &mut dyn Write) -> Result<Status> {
        // The output is formatted as for a pipe, also on a terminal.
        let terminal = Terminal::default();
        let (data, messages) =
            (&mut TextWriter::new(data, terminal), &mut TextWriter::new(messages, terminal));
        let adapter = &mut Adapter { common: common(), data, messages };
        // A damaged bundle refuses every command line.
        own_bundle()?;
        let readable = |word: &OsString| {
            word.to_str()
                .map(str::to_owned)
                .ok_or_else(|| EarlyExit::Usage(format!("{} is not UTF-8", word.display())))
        };
        let words: Result<Vec<String>, EarlyExit> = words.iter().map(readable).collect();
        let done = words.and_then(|words| match self {
            Self::Binfmt => binfmt::run(&words, adapter),
            Self::Dbhi => register_script::dbhi(&words, adapter),
            Self::Multiarch => register_script::multiarch(&words, adapter),
            Self::Conf => conf::run(&words, adapter),
        });
        match done {
            Err(EarlyExit::Usage(message)) => {
                writeln!(messages, "{message}\n\n{}", self.usage())?;
                Ok(Status::Failed)
            }
            Err(EarlyExit::Help) => {
                writeln!(data, "{}", self.usage())?;
                Ok(Status::Done)
            }
            Err(EarlyExit::Failed(error)) => Err(error),
            Ok(status) => Ok(status),
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Binfmt => binfmt::USAGE,
            Self::Dbhi => register_script::DBHI_USAGE,
            Self::Multiarch => register_script::MULTIARCH_USAGE,
            Self::Conf => conf::USAGE,
        }
    }
}

/// Reason why the execution of another tool's command line stops early.
enum EarlyExit {
    /// The command line is invalid. The value is the error message.
    Usage(String),
    /// The command line requests help.
    Help,
    /// A command of qus failed.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for EarlyExit {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Runs commands of qus on behalf of another tool, and has the writers for the output of that tool.
struct Adapter<'a> {
    common: Common,
    data: &'a mut dyn Write,
    messages: &'a mut dyn Write,
}

fn common() -> Common {
    Common { json: true, quiet: false, verbose: 0, instance: DEFAULT_PATH.into() }
}

impl Adapter<'_> {
    /// Runs a command of qus and returns its exit status and report. Prints the messages of the command unchanged, or
    /// only its errors if `quiet` is true.
    fn run_command<R: Report>(
        &mut self,
        quiet: bool,
        command: impl FnOnce(&Common, &mut Output<'_>) -> Result<R>,
    ) -> Result<(Status, R)> {
        let common = Common { instance: self.common.instance.clone(), quiet, ..common() };
        let mut data = std::io::sink();
        let mut output = Output::new(&mut data, &mut self.messages, true, quiet);
        let report = command(&common, &mut output)?;
        let status = report.conclude(&mut output)?;
        Ok((status, report))
    }

    fn register(&mut self, request: &Register) -> Result<(Status, RegisterReport)> {
        self.run_command(false, |common, output| Ok(register::execute(request, common, output)?.report))
    }

    /// Opens the instance for a registration that follows, and mounts it if necessary. The handlers of an instance that was
    /// not mounted here can then be removed first.
    fn mount(&mut self) -> Result<()> {
        let mut data = std::io::sink();
        let mut output = Output::new(&mut data, &mut self.messages, true, false);
        open_to_register(false, &self.common, &mut output).map(|_| ())
    }

    fn reset(&mut self, request: &Reset, quiet: bool) -> Result<(Status, ResetReport)> {
        self.run_command(quiet, |common, _| reset::execute(request, common))
    }
}
