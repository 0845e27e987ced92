"""What other networks' maps show: trained ones, randomised copies, and copies layer by layer."""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from helpers.digits import controls, images
from helpers.digits.batches import side_by_side
from helpers.digits.pictures import Pictures
from helpers.subspaces.nulls import holm
from helpers.values import Nothing, computed

LEVEL = 0.05
NOISE = "noise"
FEW = 2  # images of each digit that carry the null of the pictures' method; the others have one
COARSE = {  # of maps for what is asked of hundreds of networks, the trained ones among them
    "integrated_gradients": {"steps": 8},
    "expected_gradients": {"steps": 1},
    "smooth_grad": {"samples": 8},
}
COPIES = 10  # randomised copies whose pictures are drawn, and the null where no p-values are asked for


class Agreement(Pictures):
    """How like a network's maps are to those of other trained networks, of copies that learnt nothing, and the ink.

    Tables have a row a method unless they say otherwise. See `Inputs` for what is asked, and what is refused.
    """

    @computed()
    def peer_maps(self):
        """{method: maps of the other trained networks [k, n, h, w]}."""
        offered = self.offered
        every = side_by_side(lambda peer: [self.attributed(peer, m) for m in offered], self.peers.values())
        return {m: np.stack(maps) for m, maps in zip(offered, zip(*every, strict=True), strict=True)}

    @computed()
    def rules(self):
        """{method: function(network, images, targets, seed) → maps, in fewer steps} of all offered, and noise."""
        noise = {NOISE: lambda network, asked, targets, seed: controls.noise(asked, seed)}
        return controls.by_captum(self.offered, self.coarse) | noise

    @computed()
    def coarse(self):
        """`options`, in fewer steps."""
        return {method: given | COARSE.get(method, {}) for method, given in self.options.items()}

    @computed()
    def few(self) -> Int[np.ndarray, "10 few"]:
        """Places of FEW held-out images of each digit, for what is computed for many networks."""
        return images.examples(self.data.labels, self.held_out, FEW, self.rng(2)).reshape(10, FEW)

    @computed()
    def null(self):
        """What randomised copies of the network under study (of the first fold) reach, and what trained ones do.

        (`controls.null_study`, {method: agreement [k, 10] of the trained networks with all others, by digit}). The
        copies are many and slow, so they see two images of each digit by the method of the pictures, by the others one.
        """
        p, parts, agree = self.parameters, [], {}
        every = [self.readers[0], *(peer[0] for peer in self.peers.values())]
        left_out = range(len(every) if self.architecture else 1)  # one's own is no peer of the bundled ones
        seeds = self.rng(7).integers(2**62, size=len(every)).tolist()  # none that a copy gets
        for count in range(1, FEW + 1):
            rules = {name: rule for name, rule in self.rules.items() if (name == p.method) == (count == FEW)}
            places = self.few[:, :count].ravel()
            asked, targets, labels = self.data.images[places], self.targets_of(places), self.data.labels[places]
            references = {}
            for name, rule in rules.items():
                maps = np.stack([rule(each, asked, targets, seed) for each, seed in zip(every, seeds, strict=True)])
                references[name] = np.stack([controls.mean_map(np.delete(maps, n, 0)) for n in left_out])
                alike = [controls.rank_similarity(maps[n], references[name][n]) for n in left_out]
                agree[name] = np.stack([controls.by_digit(each, labels) for each in alike])
            given = asked, targets, labels, references, p.null_networks or COPIES, p.seed
            parts.append(controls.null_study(every[0], rules, *given))
        return pd.concat(parts, ignore_index=True), agree

    @computed("own")
    def copies(self) -> Float[np.ndarray, "copies 10"]:
        """Agreement of randomised copies with other trained networks, by digit, by the method of the pictures."""
        return self._agreement.drop(-1).to_numpy()

    @property
    def _agreement(self):
        rows = self.null[0].query("method == @self.parameters.method")
        return rows.pivot(index="network", columns="digit", values="agreement_0")

    def untested(self, tests):
        """Why no p-value of copies can fall below 0.05 if corrected for so many tests, or nothing."""
        asked = self.parameters.null_networks
        if not asked:
            return "no p-values were asked for: null_networks is 0"
        least = tests / (asked + 1)
        return f"with {asked} copies no corrected p can be below {least:.2f}" if least >= LEVEL else ""

    @computed("own")
    def by_digit(self):
        """Agreement with other trained networks by digit, of the network under study and of its copies; p, p_holm."""
        own = self._agreement.loc[-1].to_numpy()
        table = pd.DataFrame({"digit": range(10), "agreement": own, "randomised": controls.known_mean(self.copies, 0)})
        p = controls.null_p_value(own, self.copies) if self.parameters.null_networks else np.full(10, np.nan)
        return table.assign(p=p, p_holm=holm(p))

    def learnt(self, *seeds):
        """Whether maps agree with other trained networks beyond copies, on average over seeds: agreement, p.

        Means over the digits in which the trained networks' maps are not constant.
        """
        rows = {}
        for method in [*self.offered, NOISE]:
            own = self.null[1][method][list(seeds)]
            copies = self.of_copies(method, *(f"agreement_{n}" for n in seeds))[:, ~np.isnan(own)]
            agreement = controls.known_mean(own)
            p = np.nan if self.unlearnt else controls.null_p_value(agreement, controls.known_mean(copies, 1))
            rows[method] = {"agreement": agreement, "p": p}
        return pd.DataFrame.from_dict(rows, "index")

    def of_copies(self, method: str, *columns: str) -> Float[np.ndarray, "copies columns 10"]:
        """Columns of `null` by digit, of every randomised copy."""
        null = self.null[0].query("method == @method and network >= 0")
        return null[list(columns)].to_numpy().reshape(-1, 10, len(columns)).swapaxes(1, 2)

    @computed()
    def similarity(self):
        """`controls.similarity_table`: how alike maps are to those of copies, of other networks, and to the ink."""
        maps = {method: self.maps[method] for method in self.offered}
        return controls.similarity_table(maps, self.peer_maps, self.null[0], self.images)

    @computed("own")
    def overlap(self):
        """Share of the picture in common with that of others: with, share."""
        method = self.parameters.method
        copies = side_by_side(lambda k: self.attributed(self.shuffled(self.readers, k), method), range(COPIES))
        others = {"other trained networks": self.peer_maps[method], "randomised copies": copies}
        rows = [[name, np.minimum(self.picture, self.drawn(m)).sum()] for name, maps in others.items() for m in maps]
        return pd.DataFrame(rows, columns=["with", "share"])

    @computed()
    def layers(self):
        """`controls.layer_study` of the network under study (of the first fold) on the few images."""
        if isinstance(self.own, Nothing):
            return self.own
        places, method = self.few.ravel(), self.parameters.method
        asked = self.data.images[places], self.targets_of(places)
        return controls.layer_study(self.readers[0], method, *asked, self.parameters.seed, self.coarse[method])

    @computed()
    def mprt(self):
        """All layers shuffled: MPRT (rank correlation of signed maps), sMPRT, eMPRT and its p; noise is the last row.

        p is the share of copies whose maps are as simple as the network's (Holm over methods).
        """
        places, rows, null = self.few[:, 0], {}, self.null[0]
        asked = self.data.images[places], self.targets_of(places), self.parameters.seed
        plain = null[null.network >= 0].groupby("method").signed.mean()
        for name, rule in self.rules.items():
            smooth = controls.smooth_mprt(self.readers[0], rule, *asked, copies=3, samples=8)
            rows[name] = [
                plain[name],
                controls.known_mean(smooth),
                controls.known_mean(controls.efficient_mprt(self.readers[0], rule, *asked)),
            ]
        table = pd.DataFrame.from_dict(rows, "index", columns=["MPRT", "sMPRT", "eMPRT"]).rename_axis("method")
        own, p = null[null.network < 0].set_index("method"), []
        for method in table.index:  # of the digits in which its maps are not constant
            known = own.signed[method].notna().to_numpy()
            copies = controls.known_mean(self.of_copies(method, "complexity")[:, 0, known], 1)
            p.append(controls.null_p_value(-own.complexity[method][known].mean(), -copies))
        return table.assign(**{"eMPRT p": np.nan if self.unlearnt else holm(p)})

    @computed("own")
    def told(self):
        """What `similarity` and `overlap` say of the method of the pictures, for a sentence."""
        rows = self.similarity.query("method == @self.parameters.method").set_index("with")
        shares = self.overlap.groupby("with").share.agg(list)
        copies, peers = "randomised copies", "other trained networks"
        return pd.Series(
            {
                "copies": shares[copies],
                "peers": shares[peers],
                "copy signed": rows.signed[copies],
                "peer signed": rows.signed[peers],
                "copy absolute": rows.absolute[copies],
                "peer absolute": rows.absolute[peers],
            }
        )

    @computed()
    def unlearnt(self):
        """Why no verdict can be given, or nothing."""
        return self.untested(len(self.offered) + 1)

    @computed()
    def undecided_digits(self):
        """Why not every digit can be decided, or nothing."""
        named = [f"{digit}: {reason}" for digit, reason in self.opened.lacking.items()]
        blank = self.by_digit.digit[self.by_digit.agreement.isna()].drop(list(self.opened.lacking), errors="ignore")
        named += [f"{digit}: its maps are zero" for digit in blank]
        return self.untested(10) or "; ".join(named)
