"""Who may have room first, and how much is kept for whom."""

from server.lobby import RESERVE_SHARE, Claim, Lobby


class One:
    """A session that finds room so many times."""

    def __init__(self, name: str, lobby: "Lobby[One]", claim: Claim, said: list[str]) -> None:
        self.name, self.lobby, self.claim, self.said = name, lobby, claim, said
        self.has_room = True
        lobby.wait(self, claim)

    def invited(self) -> None:
        self.said.append(self.name)
        if not self.has_room:
            self.lobby.wait(self, self.claim)


def invite(lobby: Lobby[One]) -> None:
    for one in lobby.invitations():
        one.invited()


def test_the_urgent_go_first_and_the_rest_in_their_order() -> None:
    lobby, said = Lobby[One](), list[str]()
    claims = [Claim.AIR, Claim.RETURN, Claim.RESCUE, Claim.RETURN]
    for number, claim in enumerate(claims):
        One(str(number), lobby, claim, said)
    assert (lobby.waiting, lobby.has_urgent) == (4, True)
    invite(lobby)
    assert said == ["2", "1", "3", "0"]
    assert lobby.is_empty


def test_nobody_is_invited_behind_one_who_found_no_place() -> None:
    lobby, said = Lobby[One](), list[str]()
    first, _ = (One(name, lobby, Claim.RETURN, said) for name in "ab")
    first.has_room = False
    invite(lobby)
    assert said == ["a"]
    assert lobby.waiting == 2


def test_who_waits_to_be_decoded_some_time_holds_up_no_new_session() -> None:
    lobby = Lobby[One]()
    One("a", lobby, Claim.AIR, [])
    assert not lobby.has_urgent
    assert not lobby.is_empty


def test_room_is_kept_for_those_who_rest_up_to_a_share() -> None:
    lobby = Lobby[One]()
    ones = [One(str(n), lobby, Claim.AIR, []) for n in range(40)]
    assert lobby.reserve(64, 2) == 0
    for count, one in enumerate(ones, 1):
        lobby.rest(one, 2)
        assert lobby.resting_channels == 2 * count
        assert lobby.reserve(64, 2) == min(count, 64 // RESERVE_SHARE)
    for one in ones:
        lobby.wake(one)
        lobby.wake(one)
    assert (lobby.resting, lobby.resting_channels) == (0, 0)
