//! `qus register`: find interpreters, register them with `F`, read the entries back, prove them by execution.

mod act;
mod calm;
mod gather;
mod hold;
mod memory;
mod persist;
mod report;

use anyhow::Result;

use self::act::act;
use self::calm::Calm;
use self::gather::Gathered;
use self::hold::Patience;
use self::persist::Persistence;
use self::report::{Item, View};
use super::{Opened, open_if_mounted, open_or_mount, switched_off};
use crate::base::error::Problem;
use crate::base::output::{Output, Status};
use crate::binfmt::Flags;
use crate::cli::{Common, Register};
use crate::handler::plan::{Decision, Request, Situation, decide};
use crate::system::kernel_version::Kernel;
use crate::system::namespace::join;

pub(super) fn run(args: &Register, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    if let Some(pid) = target(args)? {
        join(pid).map_err(Problem::from)?;
    }
    // Before anything is looked at. Until this ends, as does the lock.
    let _alone = (args.persist && !args.dry_run).then(crate::boot::persist::alone);
    let patience = if args.hold { Some(Patience::begin()?) } else { None };
    let Opened { instance, scope, lifetime } =
        if args.dry_run { open_if_mounted(common)? } else { open_or_mount(common, output)? };
    if let Some(instance) = instance.as_ref().filter(|_| !args.dry_run) {
        instance.check_writable().map_err(Problem::from)?;
        if !instance.is_enabled().map_err(Problem::from)? {
            return Err(switched_off(instance).into());
        }
    }
    let handlers = match &instance {
        Some(instance) => instance.handlers().map_err(Problem::from)?,
        None => Vec::new(),
    };
    let mut gathered = Gathered::gather(args, handlers, common.quiet)?;
    let mut persistence = if args.persist { Some(Persistence::gather(&mut gathered)?) } else { None };
    let situation = Situation { handlers: &gathered.handlers, guarded: std::slice::from_ref(&gathered.host) };
    let mut items = Vec::new();
    let mut work = Vec::new();
    let asked = request(args);
    for arch in &gathered.arches {
        let mut request = asked;
        if let Some(persistence) = &persistence {
            request = persistence.request(arch, &gathered, request);
        }
        let mut decision = decide(arch, &situation, &gathered.facts(arch), request).unwrap_or_else(|error| {
            let cure = "put the interpreter into a folder with a shorter path";
            Decision::Refused { reason: error.to_string(), cure: Some(cure.to_owned()) }
        });
        if let Some(persistence) = &persistence {
            let set = persist::planned(arch, &decision, &gathered, request);
            decision = persistence.checked(arch, decision, set.as_ref());
        }
        let mut item = Item::new(arch, &decision, &gathered, args.dry_run);
        if args.skip_native && gathered.facts(arch).native.is_native() {
            item.pass_over();
        }
        items.push(item);
        if let Decision::Register(registration) = decision {
            work.push((items.len() - 1, registration));
        }
    }
    let mut problem = None;
    if let Some(instance) = instance.as_ref().filter(|_| !args.dry_run) {
        // Held until all is registered: the paths of interpreters in memory lead to them as long.
        let _memory = gathered.remember(&work)?;
        let _calm = Calm::begin();
        if let Some(persistence) = &mut persistence {
            let copied = persistence.copy(&work, &mut gathered);
            let acted = copied.and_then(|()| act(instance, work, &mut items, &gathered));
            persistence.settle(&mut items, acted)?;
            problem = persistence.keep(instance, &mut items, &gathered).err();
        } else {
            act(instance, work, &mut items, &gathered)?;
        }
    }
    if args.persist && args.dry_run {
        for (item, arch) in items.iter_mut().zip(&gathered.arches) {
            item.would_be_kept(arch);
        }
    }
    let keeper = persistence.as_ref().map(|persistence| persistence.keeper);
    let view = View { scope, lifetime, held: args.hold, keeper, dry_run: args.dry_run, items };
    output.data(&view, || view.text())?;
    let mut status = view.conclude(output)?;
    if let Some(problem) = problem {
        output.problem(&problem)?;
        status = Status::Failed;
    }
    // Nothing to stay for is no success that could be held.
    if let Some((patience, instance)) = patience.zip(instance).filter(|_| view.has_any()) {
        let new = view.new_handlers(&gathered);
        hold::notify_ready();
        patience.wait()?;
        if !args.keep {
            hold::remove(&instance, &new)?;
            output.note(&format!("removed the {} handlers that were registered", new.len()))?;
        }
    }
    Ok(status)
}

/// The process whose namespaces are meant, if not those that this is in.
fn target(args: &Register) -> Result<Option<u32>, Problem> {
    match args.namespaces_of {
        Some(engine) => Ok(Some(engine.process()?)),
        None => Ok(args.target.or(args.host.then_some(1))),
    }
}

fn request(args: &Register) -> Request {
    let mut flags = Flags::FIX_BINARY | Flags::OPEN_BINARY;
    if Kernel::running().tells_preserve_argv0() {
        flags |= Flags::PRESERVE_ARGV0;
    }
    if args.credentials {
        flags |= Flags::CREDENTIALS;
    }
    let explicit = args.interpreter.is_some()
        || !args.interpreter_dir.is_empty()
        || args.from.is_some()
        || args.qemu_version.is_some()
        || args.credentials;
    Request { flags, explicit, replace: args.replace, force_native: args.force_native }
}
