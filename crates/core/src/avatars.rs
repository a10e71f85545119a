//! Avatars: pictures that resources have taken out of the dropbox. A resource keeps those that it had before.

use crate::app::App;
use crate::model::{Actor, Image, Resource, Service, TicketNumber};
use crate::{Error, access, db, tickets};

/// For the next number of a resource. One is enough but while nodes of earlier versions, which lock nothing, take it at the same time.
const TRIES_MAX: usize = 10;

/// The present avatar, or the one of a number. None stands for the generated default.
///
/// # Errors
/// [`Error::NotFound`] when there is none of that number.
pub async fn find(app: &App, actor: &Actor, resource: &Resource, number: Option<i64>) -> Result<Option<Image>, Error> {
    let named = one_name(app, actor, resource).await?;
    let image = match db::avatars::find(&app.database, actor.org, &named, number).await? {
        // Earlier versions kept what was taken under each name apart.
        None if named != *resource => db::avatars::find(&app.database, actor.org, resource, number).await?,
        image => image,
    };
    match image {
        Some(image) => access::check(actor, access::Action::ViewAsMember(&image)).map(|()| Some(image)),
        None if number.is_some() => Err(Error::NotFound),
        None => Ok(None),
    }
}

/// Takes a picture out of the dropbox: it is kept from now on and is the resource's avatar, or nothing has changed. Gives the
/// avatar's number.
///
/// # Errors
/// [`Error::Forbidden`] for those who may not edit the resource, or didn't upload the picture; [`Error::NotFound`] when the ticket is
/// not good any more, also when another resource was faster.
pub async fn take(app: &App, actor: &Actor, resource: &Resource, number: TicketNumber) -> Result<i64, Error> {
    let resource = &one_name(app, actor, resource).await?;
    access::check(actor, access::Action::EditResource(resource))?;
    let image = tickets::find_own(app, actor, number).await?;
    let (row, org, by, now) = (resource.clone(), actor.org, actor.account, app.database.now());
    let _turn = app.database.turn(org, resource).await?;
    let avatar = retried(|| {
        let row = row.clone();
        app.database.write(move |connection| {
            Box::pin(async move {
                db::avatars::lock(connection, org, &row).await?;
                let id = db::tickets::claim(connection, number, org, now).await?.ok_or(Error::NotFound)?;
                db::avatars::append(connection, org, &row, Some(id), by, now).await
            })
        })
    })
    .await?;
    tracing::info!(target: "audit", login = actor.login, org = actor.org.0, %resource, image = %image.id, "avatar taken");
    avatar.ok_or_else(|| Error::Internal { detail: "a picture was taken and is no avatar".into() })
}

/// Goes back to the default. The avatars that the resource had stay.
///
/// # Errors
/// [`Error::Forbidden`].
pub async fn drop_current(app: &App, actor: &Actor, resource: &Resource) -> Result<(), Error> {
    let resource = &one_name(app, actor, resource).await?;
    access::check(actor, access::Action::EditResource(resource))?;
    let (row, org, by, now) = (resource.clone(), actor.org, actor.account, app.database.now());
    let _turn = app.database.turn(org, resource).await?;
    retried(|| {
        let row = row.clone();
        app.database.write(move |connection| {
            Box::pin(async move {
                db::avatars::lock(connection, org, &row).await?;
                db::avatars::append(connection, org, &row, None, by, now).await
            })
        })
    })
    .await?;
    tracing::info!(target: "audit", login = actor.login, org = actor.org.0, %resource, "avatar dropped");
    Ok(())
}

/// A person is one resource, whether called by the login in any case or by the account's id. Other resources' ids are an application's
/// own, and exact.
async fn one_name(app: &App, actor: &Actor, resource: &Resource) -> Result<Resource, Error> {
    if resource.service != Service::Users {
        return Ok(resource.clone());
    }
    let login = db::accounts::user_login(&app.database, actor.org, resource.id()).await?;
    let named = login.and_then(|login| Resource::new(Service::Users, &login).ok());
    Ok(named.unwrap_or_else(|| resource.clone()))
}

/// Writes again when another node has given the resource the same number at the same time. Nothing of ours was done then.
async fn retried<T, F>(write: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut tries = 0;
    loop {
        match write().await {
            Err(Error::Conflict) if tries < TRIES_MAX => tries += 1,
            written => return written,
        }
    }
}
