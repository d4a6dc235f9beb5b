//! `countersign recover`: lets a store be used again that lacks what was signed of it.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use action::Environment;
use gateway::{Config, Gateway, Installation, Repeat, Why};
use receipt::Timestamp;

use crate::error::{Context, Error, Result};
use crate::out;
use crate::resting::Premises;

/// Recover a store that was put back from a backup, or altered: it lacks what was signed of it, and takes nothing on
///
/// Works on a data directory that no gateway holds, with the configuration of the gateway. Says what is lacking, what of it may be
/// done twice and what is in force again, and goes on once that is accepted: it asks providers, by our reference, what became of all
/// that was sent and is open in the store, puts that on record, and begins the transparency logs anew under a new name. Exit code: 0 the store
/// can be used, 1 it cannot.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    premises: Premises,
    /// Only say what is lacking
    #[arg(long)]
    dry_run: bool,
    /// So long providers are asked, seconds; what is still open then is asked after when the gateway runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    patience: u64,
    /// Go on although what was lost may be done twice when its callers ask again
    #[arg(long)]
    accept_repeats: bool,
    /// Go on although what was revoked, frozen or withdrawn in the lost stretch is in force again
    #[arg(long)]
    accept_rights: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let config = args.premises.configuration()?;
    let store = config.data_dir.join("production.db");
    if config.store.is_none() && !store.is_file() {
        return Err(Error::new(format!("there is no store at `{}`", store.display())).hint(
            "--data-dir names another folder, --store (or `store` of the configuration, or COUNTERSIGN_STORE) a store that \
             gateways share",
        ));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.while_we(|| "cannot start".to_owned())?;
    runtime.block_on(recover(config, args))
}

async fn recover(config: Config, args: &Args) -> Result<ExitCode> {
    let installation = Installation::open_to_recover(config, server::render).await.map_err(|why| {
        let held = why.contains(&ledger::Error::Locked.to_string());
        let held = held.then_some("a gateway runs on it: end it first; it takes nothing on anyway");
        Error::new("cannot open the installation").because(why).maybe_hint(held)
    })?;
    let all = std::iter::once(&installation.production).chain(&installation.sandbox);
    let behind: Vec<&Arc<Gateway>> = all.filter(|gateway| gateway.must_be_whole().is_err()).collect();
    if behind.is_empty() {
        out::line("the store has all that was signed of it: there is nothing to recover")?;
        return Ok(ExitCode::SUCCESS);
    }
    // All of it is told before anything is done, so that one look is enough.
    let (mut repeats, mut rights) = (false, false);
    for gateway in &behind {
        tell_gaps(gateway)?;
        let (may_repeat, has_rights) = tell_stakes(gateway).await?;
        (repeats, rights) = (repeats | may_repeat, rights | has_rights);
    }
    if args.dry_run {
        return Ok(ExitCode::FAILURE);
    }
    must_be_accepted(repeats && !args.accept_repeats, rights && !args.accept_rights)?;
    for gateway in behind {
        recover_one(gateway, args).await?;
    }
    out::line("the store can be used again: start every gateway on it")?;
    Ok(ExitCode::SUCCESS)
}

fn tell_gaps(gateway: &Gateway) -> Result<()> {
    if gateway.is_unheard() {
        out::line(format_args!(
            "{}: nothing here says how much of the log was signed, and no witness has said that it saw no more of it \
             than the store has: what the store has may be old",
            gateway.environment()
        ))?;
    }
    for gap in gateway.gaps() {
        let (signed, stored) = (gap.signed, gap.stored);
        let lack = match signed - stored {
            0 => format!("other leaves than the {signed} that were signed"),
            lack => format!("{stored} of {signed} leaves that were signed, {lack} of them are lost"),
        };
        out::line(format_args!(
            "{}, tenant {}: {} has {lack}",
            gateway.environment(),
            gap.tenant,
            gap.origin
        ))?;
    }
    Ok(())
}

/// Says what of the lost stretch may be done twice, and what of it is in force again; whether there is either.
async fn tell_stakes(gateway: &Gateway) -> Result<(bool, bool)> {
    let forgotten = gateway.forgotten().await.map_err(failed)?;
    let repeats = gateway.may_be_twice(forgotten);
    for why in Why::ALL {
        tell_repeats(why, repeats.iter().filter(|repeat| repeat.why.contains(&why)))?;
    }
    // In the sandbox nothing has an effect, whoever may do it.
    let has_rights = gateway.environment() == Environment::Production;
    if has_rights {
        out::line(format_args!(
            "in force again: API keys, mandates, principals' keys, passkeys, sessions and approvals that were revoked, ended or withdrawn\
             {since}; and not frozen: agents, archetypes, providers and tenants that were frozen{since}",
            since = since(forgotten.since_ms)
        ))?;
    }
    Ok((!repeats.is_empty(), has_rights))
}

fn since(ms: i64) -> String {
    let then = u64::try_from(ms).ok().filter(|ms| *ms > 0).map(Timestamp::from_unix_millis);
    then.map_or_else(String::new, |then| format!(" since {then}"))
}

fn tell_repeats<'a>(why: Why, of: impl Iterator<Item = &'a Repeat>) -> Result<()> {
    let names: Vec<String> = of.map(|it| format!("{}/{}", it.tenant, it.archetype)).collect();
    if names.is_empty() {
        return Ok(());
    }
    let why = match why {
        Why::KeyLost => {
            "the tenant's key is lost, of which all keys are made that providers know its actions by: none recognises any of them, \
             however often it was asked before"
        }
        Why::NotRecognised => {
            "the provider does not recognise what is asked of it once more, or does not for as long as the store was put back"
        }
        Why::NamesAction => {
            "requests bear the action's id, which is another one when its caller asks again: a provider that compares requests refuses \
             the repeat, and the action is then in doubt here, for a person, though it was done before"
        }
        Why::LaterAttempt => {
            "what failed first and was done by a later attempt was done under another key than that with which a repeat begins, and \
             the provider cannot be asked about it"
        }
        Why::Undone => {
            "what was undone is undone once more when somebody asks for that again: nobody is asked about it, and the provider does not \
             recognise the repeat"
        }
        Why::OtherNames => {
            "the store was last written to by a version that gave providers other names, made of the action's id: they cannot be asked \
             by ours about what it did, and one that compares requests refuses the repeat, which has then failed though it was done before"
        }
    };
    out::line(format_args!("may be done twice when its caller asks again: {}: {why}", names.join(", ")))
}

fn must_be_accepted(repeats: bool, rights: bool) -> Result<()> {
    let mut hints = Vec::new();
    if repeats {
        hints.push(
            "put each provider's statement of the lost stretch beside the receipts that are left (countersign audit reconcile lists \
             what was done and is not in the log), see to it that nobody asks for that again, and pass --accept-repeats",
        );
    }
    if rights {
        hints.push(
            "pass --accept-rights, and as soon as a gateway runs, before agents reach it, look at what is in force (countersign keys \
             api list, mandate list, principals list, approvers list) and revoke or freeze again what has to be; `countersign freeze \
             all` first stops everything until then",
        );
    }
    let what = match (repeats, rights) {
        (false, false) => return Ok(()),
        (true, false) => "what was lost might be done twice",
        (false, true) => "what was revoked or frozen is in force again",
        (true, true) => "what was lost might be done twice, and what was revoked or frozen is in force again",
    };
    Err(Error::new(what).hint(hints.join("; ")))
}

async fn recover_one(gateway: &Arc<Gateway>, args: &Args) -> Result<()> {
    let asked = gateway.reconcile(Duration::from_secs(args.patience)).await.map_err(failed)?;
    out::line(format_args!(
        "asked after what was sent and is open in the store: {} have their last word now, {} are open",
        asked.settled, asked.open
    ))?;
    gateway.begin_anew().await.map_err(failed)?;
    out::line(
        "the transparency logs begin anew, under a new name: publish new pins (countersign keys pin --log)",
    )
}

fn failed(error: gateway::Error) -> Error {
    Error::new(error.to_string())
}
