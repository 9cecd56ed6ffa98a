"""What belongs to one user beyond the rows of the store: photos, sessions, tokens; and how it all ends.

Rules: files are named by us, never by an uploader; forgetting an account forgets every part of it, whoever asked.
"""

from __future__ import annotations

from cloud.http.services import Services


async def forget_photo(services: Services, user_id: str, photo_id: str) -> bool:
    """Remove one photo of this user, record and bytes. False if it is not theirs."""
    photo = await services.store.delete_photo(user_id, photo_id)
    if photo is None:
        return False
    await services.store.delete_file(photo.file_name)
    return True


async def forget_account(services: Services, user_id: str, reason: str) -> bool:
    """End the session, delete everything, revoke every token. False if nobody was known by that id."""
    await services.hub.end_session(user_id, reason)
    for photo in await services.store.list_photos(user_id):
        await forget_photo(services, user_id, photo.photo_id)
    for token in await services.store.list_tokens(user_id):
        services.verifier.revoked.add(token.token_id)
        services.hub.token_revoked(user_id, token.token_id)
    return await services.store.delete_user(user_id)
