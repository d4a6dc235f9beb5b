//! `countersign recover`: lets a store be used again that lacks what was signed of it.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use gateway::{Config, Gateway, Installation};

use crate::error::{Context, Error, Result};
use crate::out;
use crate::resting::Premises;

/// Recover a store that was put back from a backup, or altered: it lacks what was signed of it, and takes nothing on
///
/// Works on a data directory that no gateway holds, with the configuration of the gateway. Says what is lacking, asks providers,
/// by our reference, what became of all that is open in the store, puts that on record, and begins the transparency logs anew under
/// a new name. Exit code: 0 the store can be used, 1 it cannot.
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
    /// Go on although some providers may not recognise what is asked of them once more
    #[arg(long)]
    accept_repeats: bool,
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
    let installation = Installation::open(config, server::render).await.map_err(|why| {
        let held = why.contains(&ledger::Error::Locked.to_string());
        let held = held.then_some("a gateway runs on it: end it first; it takes nothing on anyway");
        Error::new("cannot open the installation").because(why).maybe_hint(held)
    })?;
    let all = std::iter::once(&installation.production).chain(&installation.sandbox);
    let behind: Vec<&Arc<Gateway>> = all.filter(|gateway| !gateway.gaps().is_empty()).collect();
    if behind.is_empty() {
        out::line("the store has all that was signed of it: there is nothing to recover")?;
        return Ok(ExitCode::SUCCESS);
    }
    for gateway in behind {
        tell_gaps(gateway)?;
        if !args.dry_run {
            recover_one(gateway, args).await?;
        }
    }
    if args.dry_run {
        return Ok(ExitCode::FAILURE);
    }
    out::line("the store can be used again: start every gateway on it")?;
    Ok(ExitCode::SUCCESS)
}

fn tell_gaps(gateway: &Gateway) -> Result<()> {
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

async fn recover_one(gateway: &Arc<Gateway>, args: &Args) -> Result<()> {
    let failed = |error: gateway::Error| Error::new(error.to_string());
    let twice = gateway.may_be_twice().await.map_err(failed)?;
    for (tenant, archetype) in &twice {
        out::line(format_args!(
            "tenant {tenant}: the provider of {archetype} does not recognise what is asked of it once more (or does not any \
             longer): what was lost of it may be done twice when its caller asks again"
        ))?;
    }
    if !twice.is_empty() && !args.accept_repeats {
        return Err(Error::new("what was lost might be done twice").hint(
            "find out from those providers what they did since the backup, block what must not be repeated, and pass \
             --accept-repeats",
        ));
    }
    let asked = gateway.reconcile(Duration::from_secs(args.patience)).await.map_err(failed)?;
    out::line(format_args!(
        "asked after what is open in the store: {} have their last word now, {} are open",
        asked.settled, asked.open
    ))?;
    gateway.begin_anew().await.map_err(failed)?;
    out::line(
        "the transparency logs begin anew, under a new name: publish new pins (countersign keys pin --log)",
    )
}
