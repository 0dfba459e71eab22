"Answers that the checks of lesson 18, plan, must refuse"
WRONG = {'check_days': [1.2e21/(8*312e12)/86400, 1.2e21/(312e12*.2)/86400, 1.2e21/(8*312e12*.2)/3600]}         # at full peak; on one GPU; in hours
