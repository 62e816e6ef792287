//! `qus register`: finds interpreters and registers them as handlers with the flag `F`. It reads each entry back from
//! the kernel, and verifies the handler by the execution of a probe.

mod act;
mod gather;
mod general;
mod interpreter_source;
mod memory;
mod persist;
mod report;

use anyhow::Result;

use self::act::act;
use self::gather::Inputs;
use self::persist::Persistence;
use self::report::Detail;
pub(crate) use self::report::{ArchResult, Outcome, RegisterReport};
use crate::base::count::count;
use crate::base::error::{Advice, Diagnostic};
use crate::base::hex;
use crate::base::output::{Output, Status};
use crate::binfmt::instance::Instance;
use crate::binfmt::{Flags, HandlerName, RuleError};
use crate::commands::args::{
    ArchArg, Common, INTERPRETERS, PERSISTENCE, SCOPE, SELECTION, SourceArgs, VERIFICATION, Words, named,
    parse_arches_or_presets,
};
use crate::commands::instance::{Opened, open_to_register};
use crate::commands::report::print;
use crate::commands::suggestion;
use crate::handler::classify::{default_flags, is_named_for};
use crate::handler::plan::{Decision, Registration, Request, Snapshot, decide};
use crate::handler::preset::Preset;
use crate::handler::table;
use crate::handler::transaction::remove;
use crate::system::kernel_version::KernelVersion;
use crate::system::namespace::Target;
use crate::system::namespace::enter;
use crate::system::service_manager::notify_ready;
use crate::system::signals::{DeferredSignals, EndSignals};
use clap::Args;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// Arguments of `qus register`.
#[allow(clippy::struct_excessive_bools, reason = "switches of a command line")]
#[derive(Debug, Default, Args)]
pub struct Register {
    /// Architectures, `all`, or presets [default: all]
    ///
    /// Architectures by any name, or the presets `ape`, `jar` and `wasm32-wasi` for other kinds of files. `all` selects every architecture that has an interpreter and that the host does not
    /// run natively.
    #[arg(value_name = "ARCH", value_parser = parse_arches_or_presets)]
    pub arches: Vec<Words<ArchArg>>,
    /// Use this interpreter for one ARCH
    ///
    /// Uses this file as the interpreter. Exactly one ARCH must be named, or a preset, or --magic or --extension. For an
    /// ARCH the file can be any statically linked emulator (qemu-user, box64, FEX).
    #[arg(help_heading = INTERPRETERS, long, value_name = "FILE", conflicts_with_all = ["interpreter_dir", "fetch", "from", "qemu_version"])]
    pub interpreter: Option<PathBuf>,
    /// Rule for any kind of file.
    #[command(flatten)]
    pub rule: RuleArgs,
    /// Sources of the interpreters.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Directory for fetched interpreters
    #[arg(help_heading = INTERPRETERS, long, value_name = "DIR")]
    pub dest: Option<PathBuf>,
    /// Keep the interpreters in memory
    ///
    /// Keeps the interpreters in memory, with no file on any disk. A bundle does this by default.
    #[arg(help_heading = INTERPRETERS, long)]
    pub in_memory: bool,
    /// Replace a handler of another tool
    ///
    /// Replaces a handler of another tool, or of another emulator, for the same architecture.
    #[arg(help_heading = SELECTION, long)]
    pub replace: bool,
    /// Give setuid programs their owner's rights (flag C)
    ///
    /// Gives setuid programs the rights of their owners. For a setuid program of root the emulator runs as root.
    #[arg(help_heading = SELECTION, long)]
    pub credentials: bool,
    /// Execute no probes
    ///
    /// Executes no probes. The handlers are then unverified.
    #[arg(help_heading = VERIFICATION, long)]
    pub no_verify: bool,
    /// Register even native architectures
    ///
    /// Registers even architectures that the host runs natively or may run natively, such as arm on aarch64. This can
    /// break the programs of the host.
    #[arg(help_heading = SELECTION, long)]
    pub force_native: bool,
    /// Print what would be done, and do nothing
    ///
    /// Prints what would be done. Nothing is executed, downloaded or written.
    #[arg(help_heading = SELECTION, short = 'n', long)]
    pub dry_run: bool,
    /// Register in other namespaces
    ///
    /// Registers the handlers in the namespaces of WHERE: a process id, `podman` or `docker-rootless` (of this user), or
    /// `host` (from inside of a container).
    #[arg(help_heading = SCOPE, long = "in", value_name = "WHERE")]
    pub target: Option<Target>,
    /// Keep running; remove the handlers on SIGTERM
    ///
    /// Keeps running, so that this namespace and its handlers stay. Removes the new handlers when SIGTERM or SIGINT
    /// arrives.
    #[arg(help_heading = SCOPE, long, conflicts_with = "dry_run")]
    pub hold: bool,
    /// Also register at every boot
    ///
    /// Also registers the handlers at every boot: writes /etc/binfmt.d/qus-ARCH.conf for systemd-binfmt, and what OpenRC
    /// or binfmt-support needs. Copies interpreters that would be lost at a reboot.
    #[arg(help_heading = PERSISTENCE, long, conflicts_with_all = ["in_memory", "hold"])]
    pub persist: bool,
}

/// Heading under which `--help` groups the options of [`RuleArgs`].
const RULE: &str = "Any kind of file";
/// Options that contradict a whole register line.
const PARTS: [&str; 15] = [
    "arches",
    "name",
    "magic",
    "mask",
    "offset",
    "extension",
    "flags",
    "interpreter",
    "interpreter_dir",
    "fetch",
    "from",
    "qemu_version",
    "dest",
    "in_memory",
    "credentials",
];
/// Options that contradict a single rule.
const SOURCES: [&str; 9] = [
    "arches",
    "interpreter_dir",
    "fetch",
    "from",
    "qemu_version",
    "dest",
    "in_memory",
    "credentials",
    "force_native",
];

/// Rule for files that need not be programs of an architecture.
#[derive(Debug, Default, Args)]
pub struct RuleArgs {
    /// Register this line of binfmt_misc
    ///
    /// Registers a line in the format of the kernel and of binfmt.d(5): `:name:type:offset:magic:mask:interpreter:flags`.
    #[arg(help_heading = RULE, long, value_name = "LINE", conflicts_with_all = PARTS)]
    pub rule: Option<OsString>,
    /// Name of the handler
    #[arg(help_heading = RULE, long, value_name = "NAME", value_parser = parse_name, conflicts_with_all = SOURCES)]
    pub name: Option<HandlerName>,
    /// Register files that begin with these bytes
    ///
    /// Registers --interpreter for files that have these bytes at --offset, in hexadecimal. Requires --name.
    #[arg(help_heading = RULE, long, value_name = "HEX", value_parser = parse_hex, requires_all = ["name", "interpreter"], conflicts_with_all = SOURCES)]
    pub magic: Option<HexBytes>,
    /// Bits of --magic to compare [default: all]
    #[arg(help_heading = RULE, long, value_name = "HEX", value_parser = parse_hex, requires = "magic")]
    pub mask: Option<HexBytes>,
    /// Position of --magic in the file [default: 0]
    #[arg(help_heading = RULE, long, value_name = "N", requires = "magic")]
    pub offset: Option<usize>,
    /// Register files with this extension
    ///
    /// Registers --interpreter for files whose names end with this extension, without its dot. Requires --name.
    #[arg(help_heading = RULE, long, value_name = "EXT", requires_all = ["name", "interpreter"], conflicts_with = "magic", conflicts_with_all = SOURCES)]
    pub extension: Option<String>,
    /// Flags of the handler [default: F if static]
    ///
    /// Flags of the handler: letters of P, O, C and F, or the empty word. The default is F for a statically linked
    /// interpreter, and no flag for any other.
    #[arg(help_heading = RULE, long, value_name = "FLAGS", value_parser = parse_flags, requires = "name")]
    pub flags: Option<Flags>,
}

/// Bytes that the command line names in hexadecimal.
#[derive(Clone, Debug)]
pub struct HexBytes(Vec<u8>);

fn parse_name(word: &str) -> Result<HandlerName, String> {
    HandlerName::new(word).map_err(|error| format!("the name of a handler {error}"))
}

/// Parses hexadecimal digits. `\\x` may precede each pair, as in a register line.
fn parse_hex(word: &str) -> Result<HexBytes, String> {
    let digits = word.replace("\\x", "");
    let bytes = hex::bytes(digits.as_bytes()).filter(|bytes| !bytes.is_empty());
    bytes.map(HexBytes).ok_or_else(|| "two hexadecimal digits are needed for each byte".to_owned())
}

fn parse_flags(word: &str) -> Result<Flags, String> {
    let flags = word.bytes().map(Flags::of_letter).collect::<Option<Vec<_>>>();
    let flags = flags.ok_or_else(|| "the flags are letters of P, O, C and F".to_owned())?;
    Ok(flags.into_iter().collect::<Flags>().with_implied())
}

impl Register {
    /// Returns the presets that the command line names, without duplicates.
    fn presets(&self) -> Vec<&'static Preset> {
        let mut presets: Vec<&'static Preset> = Vec::new();
        for word in self.arches.iter().flatten() {
            if let ArchArg::Preset(preset) = word
                && !presets.iter().any(|other| other.name == preset.name)
            {
                presets.push(preset);
            }
        }
        presets
    }

    /// Reports whether the command line asks for a rule or a preset, and not for architectures.
    ///
    /// # Errors
    /// Fails if it names architectures and presets, or an option that presets do not have.
    fn is_general(&self) -> Result<bool, Diagnostic> {
        let presets = self.presets();
        if presets.is_empty() {
            return Ok(self.rule.rule.is_some() || self.rule.name.is_some());
        }
        let only_presets = self.arches.iter().flatten().all(|word| matches!(word, ArchArg::Preset(_)));
        if !only_presets {
            let hint = "type one command for the architectures and one for the presets";
            return Err(
                Diagnostic::new("architectures and presets cannot be registered together").with_hint(hint)
            );
        }
        if self.interpreter.is_some() && presets.len() > 1 {
            return Err(Diagnostic::new("--interpreter requires exactly one preset"));
        }
        let option = [
            ("--fetch", self.source.fetch),
            ("--from", self.source.from.is_some()),
            ("--interpreter-dir", !self.source.interpreter_dir.is_empty()),
            ("--qemu-version", self.source.required.qemu_version.is_some()),
            ("--dest", self.dest.is_some()),
            ("--in-memory", self.in_memory),
            ("--credentials", self.credentials),
        ];
        match option.into_iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => {
                let hint = "install the interpreter, or name it with --interpreter";
                Err(Diagnostic::new(format!("{option} is not possible for a preset")).with_hint(hint))
            }
            None => Ok(true),
        }
    }
}

/// Results of `qus register`, with the open instance and the signals that `--hold` needs.
pub(crate) struct Registered {
    pub(crate) report: RegisterReport,
    instance: Option<Instance>,
    end_signals: Option<EndSignals>,
    /// Names of the handlers that this run registered.
    new: Vec<HandlerName>,
}

pub(super) fn run(args: &Register, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    let registered = execute(args, common, output)?;
    let status = print(&registered.report, output)?;
    // Without a handler, there is nothing to hold.
    if let (Some(end_signals), Some(instance)) = (&registered.end_signals, &registered.instance)
        && registered.report.has_any()
    {
        hold(end_signals)?;
        registered.new.iter().try_for_each(|name| remove(instance, name))?;
        output.info(&format!("removed {} of this command", count(registered.new.len(), "handler")))?;
    }
    Ok(status)
}

/// Executes `qus register`. If binfmt_misc has to be mounted, prints a message about the mount to `output`.
pub(crate) fn execute(args: &Register, common: &Common, output: &mut Output<'_>) -> Result<Registered> {
    let is_general = args.is_general()?;
    if let Some(target) = args.target {
        enter(target.process().map_err(Diagnostic::from)?).map_err(Diagnostic::from)?;
    }
    // The lock is taken before any file is read, and released at the end of this function.
    let _lock = (args.persist && !args.dry_run).then(crate::boot::persist::lock);
    let end_signals = if args.hold { Some(block_end_signals()?) } else { None };
    let opened = open_to_register(args.dry_run, common, output);
    let Opened { instance, scope, lifetime } = opened.map_err(|error| offer_run(args, error))?;
    let handlers = match &instance {
        Some(instance) => table::handlers(instance).map_err(Diagnostic::from)?,
        None => Vec::new(),
    };
    let mut persistence = args.persist.then(Persistence::gather);
    let init_system = persistence.as_ref().map(|persistence| persistence.init_system);
    let (held, dry_run) = (args.hold, args.dry_run);
    if is_general {
        let (items, not_persisted) =
            general::register(args, instance.as_ref(), &handlers, persistence.as_ref())?;
        let detail = Detail::Lines;
        let report =
            RegisterReport { scope, lifetime, held, init_system, dry_run, items, detail, not_persisted };
        let new = report.new_handlers(|_| true);
        return Ok(Registered { report, instance, end_signals, new });
    }
    let inputs = Inputs::gather(args, common, handlers)?;
    let Plan { mut items, work } = Plan::decide(args, &inputs, persistence.as_ref());
    let not_persisted = match &instance {
        Some(instance) if !args.dry_run => apply(instance, work, &mut items, &inputs, persistence.as_mut())?,
        _ => None,
    };
    let report = RegisterReport {
        scope,
        lifetime,
        held,
        init_system,
        dry_run,
        items,
        detail: match named(&args.arches) {
            None if common.verbose == 0 => Detail::Exceptions,
            _ => Detail::Lines,
        },
        not_persisted,
    };
    let known = |name: &HandlerName| inputs.arches.iter().any(|arch| is_named_for(name, arch));
    let new = report.new_handlers(known);
    Ok(Registered { report, instance, end_signals, new })
}

/// Plan of `qus register` for each selected architecture.
struct Plan {
    /// Results of the architectures, in the order of `Inputs::arches`. They are updated when the plan is executed.
    items: Vec<ArchResult>,
    /// Registrations to execute, each with the index of its architecture's result in `items`.
    work: Vec<(usize, Registration)>,
}

impl Plan {
    /// Decides what to do for each architecture of `inputs`. A dry run prints this plan.
    fn decide(args: &Register, inputs: &Inputs, persistence: Option<&Persistence>) -> Self {
        let snapshot = Snapshot { handlers: &inputs.handlers, guarded: std::slice::from_ref(&inputs.host) };
        let mut plan = Self { items: Vec::new(), work: Vec::new() };
        for arch in &inputs.arches {
            let _arch = tracing::info_span!("arch", name = arch.name).entered();
            let mut request = request(args);
            if let Some(persistence) = persistence {
                request = persistence.request(arch, inputs, request);
            }
            let mut decision =
                decide(arch, &snapshot, &inputs.facts(arch), request).unwrap_or_else(|error| refused(&error));
            if let Some(persistence) = persistence {
                let rules = persist::planned(arch, &decision, inputs, request);
                decision = persistence.checked(&(*arch).into(), decision, rules.as_ref());
            }
            tracing::info!("decided: {decision}");
            let mut item = ArchResult::new(arch, &decision, inputs, request.flags, args.dry_run);
            // A native architecture is a success, unless `--interpreter` names a file for it.
            if args.interpreter.is_none() && !args.force_native && inputs.facts(arch).native.is_native() {
                item.set_native();
            }
            if args.persist && args.dry_run {
                item.would_be_persisted(&(*arch).into());
            }
            if let Decision::Register(registration) = decision {
                plan.work.push((plan.items.len(), registration));
            }
            plan.items.push(item);
        }
        plan
    }
}

fn refused(error: &RuleError) -> Decision {
    let advice = Advice::hint("put the interpreter into a directory with a shorter path");
    Decision::Refused { reason: error.to_string(), advice }
}

/// Executes the registrations in `work`. With `persistence`, then writes the files that register the handlers at boot.
/// Returns the reason if these files cannot be written: the handlers are then registered until the next reboot only.
fn apply(
    instance: &Instance,
    work: Vec<(usize, Registration)>,
    items: &mut [ArchResult],
    inputs: &Inputs,
    persistence: Option<&mut Persistence>,
) -> Result<Option<Diagnostic>> {
    // Paths of interpreters in memory are valid while this value exists.
    let (_memory, mut placed) = inputs.load_into_memory(&work)?;
    let _deferred = DeferredSignals::begin();
    let Some(persistence) = persistence else {
        act(instance, work, items, inputs, &placed)?;
        return Ok(None);
    };
    let acted = persistence.copy(&work, inputs).and_then(|copies| {
        placed.extend(copies);
        act(instance, work, items, inputs, &placed)
    });
    persistence.rollback_failed_copies(items, acted)?;
    Ok(persistence.write_boot_files(instance, items, inputs).err())
}

fn block_end_signals() -> Result<EndSignals, Diagnostic> {
    EndSignals::block()
        .map_err(|errno| Diagnostic::new(format!("cannot block signals: {}", io::Error::from(errno))))
}

/// Adds the command that needs no registration to an error because of which nothing can be registered. `qus run` is no
/// alternative to a registration at boot or in the namespaces of another process.
fn offer_run(args: &Register, error: anyhow::Error) -> anyhow::Error {
    if args.persist || args.target.is_some() {
        return error;
    }
    match error.downcast::<Diagnostic>() {
        Ok(problem) => suggestion::or_run(problem).into(),
        Err(error) => error,
    }
}

/// Waits for SIGHUP, SIGINT or SIGTERM (`--hold`). Until then this process keeps the instance open.
fn hold(end_signals: &EndSignals) -> Result<(), Diagnostic> {
    if let Err(error) = notify_ready() {
        tracing::warn!("cannot notify the service manager: {error}");
    }
    end_signals
        .wait()
        .map_err(|errno| Diagnostic::new(format!("cannot wait for signals: {}", io::Error::from(errno))))
}

/// Translates the options of the command line into the request from which each architecture is decided.
fn request(args: &Register) -> Request {
    let mut flags = default_flags(KernelVersion::running());
    if args.credentials {
        flags |= Flags::CREDENTIALS;
    }
    let explicit = args.interpreter.is_some()
        || args.source.is_named()
        || args.source.required.qemu_version.is_some()
        || args.in_memory
        || args.credentials;
    Request { flags, explicit, replace: args.replace, force_native: args.force_native }
}
