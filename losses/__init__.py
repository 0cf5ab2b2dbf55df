"""The three losses of the method, and TEMI's: pure functions, and a module around each that holds its
settings."""

from losses.scan import SCANLoss, ScanTerms, cluster_entropy, scan_loss
from losses.selflabel import ConfidenceBasedCE, confidence_based_ce
from losses.simclr import SimCLRLoss, simclr_loss
from losses.temi import TEMILoss, pair_weights, temi_loss

__all__ = ["ConfidenceBasedCE", "SCANLoss", "ScanTerms", "SimCLRLoss", "TEMILoss", "cluster_entropy"]
__all__ += ["confidence_based_ce", "pair_weights", "scan_loss", "simclr_loss", "temi_loss"]
