"""Two conv-pool stages and two linear layers, for 8x8 images of handwritten digits."""

from torch import nn


class SmallCNN(nn.Module):
    """(N, 1, 8, 8) images -> (N, 10) logits. One max pool and one average pool, both 2x2."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.pool2 = nn.AvgPool2d(2)
        self.relu = nn.ReLU()
        self.fc1 = nn.Linear(64 * 2 * 2, 64)
        self.fc2 = nn.Linear(64, 10)
        # Without it training starts on a plateau, where rounding errors grow fastest.
        for module in (self.conv1, self.conv2, self.fc1, self.fc2):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x):
        x = self.pool1(self.relu(self.conv1(x)))
        x = self.pool2(self.relu(self.conv2(x)))
        return self.fc2(self.relu(self.fc1(x.flatten(1))))
